#include "mixers/key_clusters.h"

#include <algorithm>
#include <cmath>

#include "base/clones.h"

namespace retort {
namespace {

constexpr int kTile = 32;     // centroids whose distances are summed in registers
constexpr int kKeys = 4;      // keys that share a load of them
constexpr int kRounds = 8;

uint64_t next_random(uint64_t& state) {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Products of kKeys keys [kKeys, d] with kTile centroids; `centroids` is [d, columns] and points at the tile's first column.
RETORT_CLONES void tile_products(const float* keys, const float* centroids, int64_t columns, int d, float* out) {
  float sum[kKeys][kTile] = {};
  for (int j = 0; j < d; ++j) {
    const float* c = centroids + j * columns;
    for (int i = 0; i < kKeys; ++i) {
      const float key = keys[i * d + j];
      for (int m = 0; m < kTile; ++m) sum[i][m] += key * c[m];
    }
  }
  for (int i = 0; i < kKeys; ++i) {
    for (int m = 0; m < kTile; ++m) out[i * kTile + m] = sum[i][m];
  }
}

struct Metric {
  int d;
  std::vector<double> sigma;  // [d, d], ridge added
  std::vector<double> root;   // lower triangular L with sigma = L L^T
};

Metric make_metric(const HeadStatistics& head) {
  const int d = head.head_dim;
  Metric m{d, std::vector<double>(d * d, 0.0), std::vector<double>(d * d, 0.0)};
  double trace = 0;
  for (int q = 0; q < head.group; ++q) {
    for (int i = 0; i < d * d; ++i) m.sigma[i] += head.query_moments[int64_t(q) * d * d + i] / head.group;
  }
  for (int i = 0; i < d; ++i) trace += m.sigma[i * d + i];
  for (int i = 0; i < d; ++i) m.sigma[i * d + i] += 1e-3 * trace / d + 1e-12;
  for (int i = 0; i < d; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = m.sigma[i * d + j];
      for (int k = 0; k < j; ++k) sum -= m.root[i * d + k] * m.root[j * d + k];
      m.root[i * d + j] = i == j ? std::sqrt(std::max(sum, 1e-20)) : sum / m.root[j * d + j];
    }
  }
  return m;
}

// L^T x: the metric becomes Euclidean.
void whiten(const Metric& m, const float* x, float* out) {
  for (int j = 0; j < m.d; ++j) {
    double sum = 0;
    for (int i = j; i < m.d; ++i) sum += m.root[i * m.d + j] * x[i];
    out[j] = static_cast<float>(sum);
  }
}

// Nearest centroid of every key; returns the mean squared distance.
double assign(const std::vector<float>& white, int64_t padded_tokens, int64_t tokens, int d, const std::vector<float>& transposed,
              const std::vector<float>& norms, int64_t columns, std::vector<int>& nearest) {
  float products[kKeys * kTile];
  double total = 0;
  for (int64_t t = 0; t < padded_tokens; t += kKeys) {
    float best[kKeys];
    std::fill(best, best + kKeys, 3e38f);
    for (int64_t first = 0; first < columns; first += kTile) {
      tile_products(white.data() + t * d, transposed.data() + first, columns, d, products);
      for (int i = 0; i < kKeys; ++i) {
        for (int m = 0; m < kTile; ++m) {
          const float distance = norms[first + m] - 2 * products[i * kTile + m];
          if (distance < best[i]) best[i] = distance, nearest[t + i] = static_cast<int>(first + m);
        }
      }
    }
    for (int i = 0; i < kKeys && t + i < tokens; ++i) {
      double own = 0;
      for (int j = 0; j < d; ++j) own += double(white[(t + i) * d + j]) * white[(t + i) * d + j];
      total += std::max(0.0, own + best[i]);
    }
  }
  return total / double(tokens);
}

}  // namespace

KeyClusters cluster_keys(const HeadStatistics& head, int count) {
  const int d = head.head_dim;
  const Metric metric = make_metric(head);
  const int64_t tokens = head.tokens, padded = (tokens + kKeys - 1) / kKeys * kKeys, columns = (count + kTile - 1) / kTile * kTile;
  std::vector<float> white(padded * d, 0.0f), transposed(d * columns), norms(columns), centre(d), centre_white(d);
  for (int64_t t = 0; t < tokens; ++t) whiten(metric, head.keys + t * d, white.data() + t * d);
  KeyClusters result{metric.sigma, std::vector<double>(int64_t(count) * d)};
  uint64_t random = head.seed;
  const auto take_key = [&](int m) {
    const int64_t t = static_cast<int64_t>(next_random(random) % uint64_t(tokens));
    for (int j = 0; j < d; ++j) result.centres[int64_t(m) * d + j] = head.keys[t * d + j];
  };
  for (int m = 0; m < count; ++m) take_key(m);
  std::vector<int> nearest(padded);
  for (int round = 0; round <= kRounds; ++round) {
    std::fill(norms.begin(), norms.end(), 1e30f);  // columns beyond the centres are never nearest
    for (int m = 0; m < count; ++m) {
      for (int j = 0; j < d; ++j) centre[j] = static_cast<float>(result.centres[int64_t(m) * d + j]);
      whiten(metric, centre.data(), centre_white.data());
      norms[m] = 0;
      for (int j = 0; j < d; ++j) transposed[j * columns + m] = centre_white[j], norms[m] += centre_white[j] * centre_white[j];
    }
    result.mean_distance = assign(white, padded, tokens, d, transposed, norms, columns, nearest);
    if (round == kRounds) break;
    std::vector<double> sums(int64_t(count) * d, 0.0);
    std::vector<int64_t> members(count, 0);
    for (int64_t t = 0; t < tokens; ++t) {
      ++members[nearest[t]];
      for (int j = 0; j < d; ++j) sums[int64_t(nearest[t]) * d + j] += head.keys[t * d + j];
    }
    for (int m = 0; m < count; ++m) {
      if (members[m] == 0) {
        take_key(m);
        continue;
      }
      for (int j = 0; j < d; ++j) result.centres[int64_t(m) * d + j] = sums[int64_t(m) * d + j] / double(members[m]);
    }
  }
  return result;
}

}  // namespace retort
