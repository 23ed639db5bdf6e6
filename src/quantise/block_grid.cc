#include "quantise/block_grid.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace retort {
namespace {

// How much of the range is kept: the extremes of 32 weights are often not worth their step.
constexpr float kShares[] = {1.0f, 0.96f, 0.92f, 0.88f, 0.84f, 0.80f, 0.75f, 0.70f};

float rounded(float x) { return f16_to_float(float_to_f16(x)); }

// The nearest whole number, ties to even, of |x| < 2^22: a loop of these is a loop of vectors.
float nearest_whole(float x) {
  constexpr float kLarge = 12582912;  // 3 * 2^22, from which on floats are whole
  return (x + kLarge) - kLarge;
}

double error_of(const BlockGrid& grid, const float* w, const float* weight) {
  const float inverse = grid.step == 0 ? 0 : 1 / grid.step;  // a product instead of a quotient: near ties, either level is as good
  const float least = float(grid.least), most = float(grid.most);
  float sums[8] = {};
  for (int i = 0; i < kGridBlock; i += 8) {
    for (int j = 0; j < 8; ++j) {
      float q = (w[i + j] - grid.offset) * inverse;
      q = q < least ? least : q;
      q = q > most ? most : q;
      const float e = w[i + j] - (grid.step * nearest_whole(q) + grid.offset);
      sums[j] += weight[i + j] * e * e;
    }
  }
  double sum = 0;
  for (float s : sums) sum += double(s);
  return sum;
}

// Step and offset of the least squares for the levels that `grid` gives.
BlockGrid refit(const BlockGrid& grid, const float* w, const float* weight) {
  double n = 0, x = 0, xx = 0, y = 0, xy = 0;
  for (int i = 0; i < kGridBlock; ++i) {
    const double q = grid.level(w[i]), c = weight[i];
    n += c, x += c * q, xx += c * q * q, y += c * double(w[i]), xy += c * q * double(w[i]);
  }
  BlockGrid fitted = grid;
  const bool with_offset = grid.least == 0;
  const double determinant = with_offset ? n * xx - x * x : xx;
  if (!(determinant > 1e-12 * n * xx) || xx <= 0) return grid;
  fitted.step = rounded(float(with_offset ? (n * xy - x * y) / determinant : xy / xx));
  if (with_offset) fitted.offset = rounded(float((xx * y - x * xy) / determinant));
  return fitted;
}

struct Best {
  BlockGrid grid;
  double error = -1;
  const float* w;
  const float* weight;

  void consider(const BlockGrid& candidate) {
    const double e = error_of(candidate, w, weight);
    if (error >= 0 && !(e < error)) return;
    error = e;
    grid = candidate;
  }
  // Errors far below those of weights that lie anywhere, which are a twelfth: the weights were on this grid, and have been through bf16.
  bool on_grid() const {
    double all = 0;
    for (int i = 0; i < kGridBlock; ++i) all += double(weight[i]);
    return error < 0.002 * double(grid.step) * double(grid.step) * all;
  }
};

void consider_symmetric(TensorType type, Best& best) {
  float extreme = 0;
  for (int i = 0; i < kGridBlock; ++i) {
    if (std::abs(best.w[i]) > std::abs(extreme)) extreme = best.w[i];
  }
  const bool bytes = type == TensorType::kQ8_0;
  for (float share : kShares) {
    // Q4_0 has one level more below zero than above: the extreme takes it.
    const float step = rounded(bytes ? std::abs(extreme) * share / 127 : extreme * share / -8);
    best.consider({step, 0, bytes ? -127 : -8, bytes ? 127 : 7});
    if (bytes || best.on_grid()) break;  // an eighth of a thousandth is not worth a search
  }
}

void consider_shifted(Best& best) {
  const auto [low, high] = std::minmax_element(best.w, best.w + kGridBlock);
  const float middle = (*low + *high) / 2;
  for (float below : kShares) {
    for (float above : kShares) {
      const float first = middle + (*low - middle) * below, last = middle + (*high - middle) * above;
      best.consider({rounded((last - first) / 15), rounded(first), 0, 15});
      if (best.on_grid()) return;
    }
  }
}

}  // namespace

int BlockGrid::level(float w) const {
  if (step == 0) return std::clamp(0, least, most);
  return int(std::lrint(std::clamp((w - offset) / step, float(least), float(most))));
}

bool has_grid(TensorType type) { return type == TensorType::kQ8_0 || type == TensorType::kQ4_0 || type == TensorType::kQ4_1; }

BlockGrid choose_grid(TensorType type, const float* w, const float* weight) {
  RETORT_CHECK(has_grid(type), tensor_type_name(type));
  Best best{{}, -1, w, weight};
  if (type == TensorType::kQ4_1) consider_shifted(best);
  else consider_symmetric(type, best);
  best.consider(refit(best.grid, w, weight));
  return best.grid;
}

void put_block(TensorType type, const BlockGrid& grid, const int8_t* levels, std::byte* out) {
  const auto put_half = [&](float x) {
    const uint16_t half = float_to_f16(x);
    std::memcpy(out, &half, sizeof half);
    out += sizeof half;
  };
  put_half(grid.step);
  if (type == TensorType::kQ8_0) {
    for (int i = 0; i < kGridBlock; ++i) out[i] = std::byte(uint8_t(levels[i]));
    return;
  }
  if (type == TensorType::kQ4_1) put_half(grid.offset);
  for (int i = 0; i < kGridBlock / 2; ++i) {
    out[i] = std::byte(uint8_t((levels[i] - grid.least) | (levels[i + kGridBlock / 2] - grid.least) << 4));
  }
}

}  // namespace retort
