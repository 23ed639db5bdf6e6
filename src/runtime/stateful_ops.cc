// The operations of RuntimeOps that read and write a sequence's state.
#include <cmath>
#include <cstring>

#include "runtime/runtime_ops.h"

namespace retort {

using Tensor = RuntimeOps::Tensor;

Normalised<Tensor> RuntimeOps::attention(Tensor q, Tensor k, Tensor v, int heads, int kv_heads, WindowConfig window) {
  const int d = k.columns / kv_heads, dv = v.columns / kv_heads, group = heads / kv_heads;
  const Normalised<Tensor> y{allocate(heads * dv), allocate(heads)};
  const float scale = 1.0f / std::sqrt(float(d));
  for (const RowSegment& s : segments_) {
    const StateLayout::Slot& slot = next_slot(*s.sequence);
    const int64_t position = s.sequence->position(), columns = k.columns + v.columns;
    std::vector<float> history;  // all rows up to the end of the segment
    const auto copy = [&](float* to, int64_t t) {
      std::memcpy(to, k.row(s.first + t), k.columns * sizeof(float));
      std::memcpy(to + k.columns, v.row(s.first + t), v.columns * sizeof(float));
    };
    float* fixed = window.size ? s.sequence->fixed(slot) : nullptr;
    const int64_t sinks = window.sinks, size = window.size;
    if (!window.size) {
      KvCache& cache = s.sequence->cache(slot);
      float* to = cache.append(s.count);
      for (int64_t t = 0; t < s.count; ++t) copy(to + t * columns, t);
    }
    const auto at = [&](int64_t p) -> std::pair<const float*, const float*> {
      if (p >= position) return {k.row(s.first + p - position), v.row(s.first + p - position)};
      const float* row = !window.size ? s.sequence->cache(slot).row(p)
                         : p < sinks  ? fixed + p * columns
                                      : fixed + (sinks + (p - sinks) % size) * columns;
      return {row, row + k.columns};
    };
    pool_.parallel_for(s.count * heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scores;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / heads, h = i % heads, g = h / group, p = position + t;
        const float* query = q.row(s.first + t) + h * d;
        float* out = y.out.row(s.first + t) + h * dv;
        scores.clear();
        const auto seen = [&](int64_t j) { return !size || j < sinks || j > p - size; };
        float most = -INFINITY;
        for (int64_t j = 0; j <= p; ++j) {
          float dot = -INFINITY;
          if (seen(j)) {
            const float* key = at(j).first + g * d;
            dot = 0;
            for (int c = 0; c < d; ++c) dot += query[c] * key[c];
            dot *= scale;
          }
          scores.push_back(dot);
          most = std::max(most, dot);
        }
        float sum = 0;
        std::fill(out, out + dv, 0.0f);
        for (int64_t j = 0; j <= p; ++j) {
          if (!seen(j)) continue;
          const float w = std::exp(scores[j] - most);
          sum += w;
          const float* value = at(j).second + g * dv;
          for (int c = 0; c < dv; ++c) out[c] += w * value[c];
        }
        for (int c = 0; c < dv; ++c) out[c] /= sum;
        y.log_norm.row(s.first + t)[h] = most + std::log(sum);
      }
    });
    if (window.size) {
      for (int64_t t = 0; t < s.count; ++t) {
        const int64_t p = position + t;
        copy(fixed + (p < sinks ? p : sinks + (p - sinks) % size) * columns, t);
      }
    }
  }
  ++slot_;
  return y;
}

Normalised<Tensor> RuntimeOps::recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in) {
  Normalised<Tensor> y{allocate(spec.heads * spec.value_dim), {}};
  if (spec.normalised) y.log_norm = allocate(spec.heads);
  const int K = spec.key_dim, V = spec.value_dim, columns = spec.state_columns(), group = spec.heads / spec.kv_heads;
  for (const RowSegment& s : segments_) {
    float* state = s.sequence->fixed(next_slot(*s.sequence));
    pool_.parallel_for(spec.kv_heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> acc(columns);
      for (int64_t g = begin; g < end; ++g) {
        float* S = state + g * K * columns;
        for (int64_t t = 0; t < s.count; ++t) {
          const int64_t r = s.first + t;
          const float* k = in.k.row(r) + g * K;
          const float* v = in.v.row(r) + g * V;
          if (s.sequence->position() + t >= spec.first_position) {
            for (int i = 0; i < K; ++i) {
              float* row = S + i * columns;
              const float keep = spec.decay == Decay::kNone     ? 1.0f
                                 : spec.decay == Decay::kScalar ? std::exp(in.log_decay.row(r)[g])
                                                                : std::exp(in.log_decay.row(r)[g * K + i]);
              for (int c = 0; c < V; ++c) row[c] = keep * row[c] + k[i] * v[c];
              if (spec.normalised) row[V] = keep * row[V] + k[i];
            }
          }
          for (int64_t h = g * group; h < (g + 1) * group; ++h) {
            const float* q = in.q.row(r) + h * K;
            std::fill(acc.begin(), acc.end(), 0.0f);
            for (int i = 0; i < K; ++i) {
              const float* row = S + i * columns;
              for (int c = 0; c < columns; ++c) acc[c] += q[i] * row[c];
            }
            float* out = y.out.row(r) + h * V;
            const float skip = in.skip ? in.skip->values[h] : 0.0f;
            const bool written = !spec.normalised || acc[V] > 0;
            for (int c = 0; c < V; ++c) out[c] = !written ? 0.0f : (spec.normalised ? acc[c] / acc[V] : acc[c]) + skip * v[c];
            if (spec.normalised) {
              const float offset = in.q_log_offset ? in.q_log_offset.row(r)[h] : 0.0f;
              y.log_norm.row(r)[h] = written ? std::log(acc[V]) + offset : float(kNothingWritten);
            }
          }
        }
      }
    });
  }
  ++slot_;
  return y;
}

Tensor RuntimeOps::join(Normalised<Tensor> a, Normalised<Tensor> b, int heads) {
  const int d = a.out.columns / heads;
  return map_rows(a.out, [&](const float* near, float* to, int64_t r) {
    const float* far = b.out.row(r);
    for (int h = 0; h < heads; ++h) {
      const float share = 1.0f / (1.0f + std::exp(a.log_norm.row(r)[h] - b.log_norm.row(r)[h]));  // the far side's
      for (int i = h * d; i < (h + 1) * d; ++i) to[i] = near[i] + share * (far[i] - near[i]);
    }
  });
}

}  // namespace retort
