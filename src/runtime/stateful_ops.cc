// The operations of RuntimeOps that read and write a sequence's state.
#include <cmath>
#include <cstring>

#include "mixers/kernel_specs.h"
#include "runtime/runtime_ops.h"

namespace retort {

using Tensor = RuntimeOps::Tensor;

namespace {

// The last `count` rows of a sequence's stream of rows: row p lives at p % count.
struct Ring {
  float* data;
  int64_t count, columns;
  float* row(int64_t position) const { return data + position % count * columns; }
};

// A window's keys and values: the sinks first, then a ring of the last `size` positions that are not sinks. Rows are
// [key columns | value columns].
struct WindowRows {
  float* data;
  int64_t sinks, size, key_columns, columns, kv_heads;

  float* row(int64_t position) const {
    return data + (position < sinks ? position : sinks + (position - sinks) % size) * columns;
  }
  CacheSpan span(int64_t position, int64_t count) const {
    return make_span(row(position), row(position) + key_columns, columns, columns, position, count);
  }
  CacheSpan make_span(const float* keys, const float* values, int64_t key_stride, int64_t value_stride, int64_t position,
                      int64_t count) const {
    return {keys, values, key_stride, key_columns / kv_heads, value_stride, (columns - key_columns) / kv_heads, position, count};
  }
  // What is held of the tokens before `position`, oldest first: at most three spans.
  int spans(int64_t position, CacheSpan* out) const {
    int n = 0;
    if (const int64_t held = std::min(sinks, position); held > 0) out[n++] = span(0, held);
    const int64_t first = std::max(sinks, position - size);
    for (int64_t p = first; p < position;) {
      const int64_t until_wrap = size - (p - sinks) % size;
      out[n++] = span(p, std::min(until_wrap, position - p));
      p += until_wrap;
    }
    return n;
  }
};

// Up to here tokens go one by one: the chunked form pays off later.
constexpr int64_t kStepTokens = 4;

// -exp(decay_rate), as the kernel reads it: per kv head [K, V] instead of [V, K].
std::vector<float> scan_rates(const RecurrenceSpec& s, const std::vector<float>& decay_rate) {
  std::vector<float> rates(decay_rate.size());
  for (int64_t g = 0; g < s.kv_heads; ++g) {
    for (int64_t i = 0; i < s.key_dim; ++i) {
      for (int64_t c = 0; c < s.value_dim; ++c) {
        rates[size_t((g * s.key_dim + i) * s.value_dim + c)] = -std::exp(decay_rate[size_t((g * s.value_dim + c) * s.key_dim + i)]);
      }
    }
  }
  return rates;
}

}  // namespace

Tensor RuntimeOps::short_conv(Tensor x, Weight w, Weight bias) {
  const int64_t taps = w->shape[1], channels = x.columns;
  const Tensor out = allocate(x.columns);
  for (const RowSegment& s : segments_) {
    const int64_t position = s.sequence->position();
    const Ring ring{s.sequence->fixed(next_slot(*s.sequence)), taps - 1, channels};
    const auto convolve = [&](int64_t t) {
      float* to = out.row(s.first + t);
      const float* tap = w->transposed.data() + (taps - 1) * channels;  // the current token's
      kernels_.mul(tap, x.row(s.first + t), channels, to);
      if (bias) kernels_.add(to, bias->values.data(), channels, to);
      for (int64_t back = 1; back < taps && back <= position + t; ++back) {
        const float* in = t >= back ? x.row(s.first + t - back) : ring.row(position + t - back);
        kernels_.mul_add(tap - back * channels, in, channels, to);
      }
    };
    if (s.count == 1) {
      convolve(0);
    } else {
      pool_.parallel_for(s.count, 16, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) convolve(t);
      });
    }
    for (int64_t t = std::max<int64_t>(0, s.count - ring.count); t < s.count; ++t) {
      std::memcpy(ring.row(position + t), x.row(s.first + t), size_t(channels) * sizeof(float));
    }
  }
  ++slot_;
  return out;
}

Tensor RuntimeOps::earlier(Tensor x, int64_t back) {
  const Tensor out = allocate(x.columns);
  const size_t bytes = size_t(x.columns) * sizeof(float);
  for (const RowSegment& s : segments_) {
    const int64_t position = s.sequence->position();
    const Ring ring{s.sequence->fixed(next_slot(*s.sequence)), back, x.columns};
    for (int64_t t = 0; t < s.count; ++t) {
      const float* from = t >= back ? x.row(s.first + t - back) : ring.row(position + t);  // zeros at the start
      std::memcpy(out.row(s.first + t), from, bytes);
    }
    for (int64_t t = std::max<int64_t>(0, s.count - back); t < s.count; ++t) {
      std::memcpy(ring.row(position + t), x.row(s.first + t), bytes);
    }
  }
  ++slot_;
  return out;
}

Normalised<Tensor> RuntimeOps::attention(Tensor q, Tensor k, Tensor v, int heads, int kv_heads, WindowConfig window) {
  const int key_dim = k.columns / kv_heads, value_dim = v.columns / kv_heads;
  const Normalised<Tensor> y{allocate(heads * value_dim), allocate(heads)};
  if (segments_.empty()) {
    ++slot_;
    return y;
  }
  scratch_.tasks.clear();
  scratch_.spans.resize(segments_.size() * 4);
  for (size_t i = 0; i < segments_.size(); ++i) {
    const RowSegment& s = segments_[i];
    const int64_t position = s.sequence->position();
    const StateLayout::Slot& slot = next_slot(*s.sequence);
    AttentionArgs args{q.row(s.first), q.stride, s.count, position, heads, kv_heads, key_dim, value_dim};
    args.scale = 1.0f / std::sqrt(float(key_dim));
    args.out = y.out.row(s.first);
    args.out_stride = y.out.stride;
    args.log_norm = y.log_norm.row(s.first);
    args.log_norm_stride = heads;
    if (window.size == 0) {
      KvCache& cache = s.sequence->cache(slot);
      cache.append(k.row(s.first), k.stride, v.row(s.first), v.stride, s.count);
      args.type = cache.type();
      args.cache = cache.spans();
    } else {
      const WindowRows rows{s.sequence->fixed(slot), window.sinks, window.size, k.columns, k.columns + v.columns, kv_heads};
      CacheSpan* spans = scratch_.spans.data() + 4 * i;
      int count = rows.spans(position, spans);
      spans[count++] = rows.make_span(k.row(s.first), v.row(s.first), k.stride, v.stride, position, s.count);
      args.type = CacheType::kF32;
      args.cache = {spans, size_t(count)};
      args.window = window.size;
      args.sinks = window.sinks;
    }
    scratch_.tasks.push_back(args);
  }
  ::retort::attention(pool_, scratch_.tasks, scratch_.attention);
  if (window.size > 0) remember_window(k, v, kv_heads, window);
  ++slot_;
  return y;
}

void RuntimeOps::remember_window(Tensor k, Tensor v, int kv_heads, WindowConfig window) {
  for (const RowSegment& s : segments_) {
    const int64_t position = s.sequence->position(), end = position + s.count;
    const WindowRows rows{s.sequence->fixed(next_slot(*s.sequence)), window.sinks, window.size, k.columns, k.columns + v.columns,
                          kv_heads};
    for (int64_t p = position; p < end; ++p) {
      if (p >= window.sinks && p < end - window.size) continue;
      std::memcpy(rows.row(p), k.row(s.first + p - position), size_t(k.columns) * sizeof(float));
      std::memcpy(rows.row(p) + k.columns, v.row(s.first + p - position), size_t(v.columns) * sizeof(float));
    }
  }
}

Tensor RuntimeOps::dense(Tensor x) {
  if (!x || x.stride == x.columns || rows_ <= 1) return x;
  return map_rows(x, [&](const float* in, float* out, int64_t) { std::memcpy(out, in, size_t(x.columns) * sizeof(float)); });
}

namespace {

float* row_or_null(Tensor x, int64_t r) { return x ? x.row(r) : nullptr; }

}  // namespace

// forward(g, first row, rows, position, state) and step(the same) for every kv head of every segment, in parallel.
template <class Forward, class Step>
void RuntimeOps::each_kv_head(const RecurrenceSpec& spec, int64_t state_size, Forward&& forward, Step&& step) {
  pool_.run_chunks(int64_t(segments_.size()) * spec.kv_heads, [&](int64_t chunk) {
    const RowSegment& s = segments_[size_t(chunk / spec.kv_heads)];
    const int g = int(chunk % spec.kv_heads);
    float* state = s.sequence->fixed(next_slot(*s.sequence)) + g * state_size;
    const int64_t position = s.sequence->position();
    if (s.count > kStepTokens) return forward(g, s.first, s.count, position, state);
    for (int64_t t = 0; t < s.count; ++t) step(g, s.first + t, position + t, state);
  });
}

Normalised<Tensor> RuntimeOps::recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in) {
  Normalised<Tensor> y{allocate(spec.heads * spec.value_dim), {}};
  if (spec.joins()) y.log_norm = allocate(spec.heads);
  if (spec.transition != Transition::kDiagonal) rank_one(spec, in, y.out);
  else if (spec.decay == Decay::kPerCell) selective_scan(spec, in, y.out);
  else diagonal(spec, in, y);
  ++slot_;
  if (in.skip) add_skip(y.out, in.v, in.skip, spec);
  return y;
}

void RuntimeOps::diagonal(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in, Normalised<Tensor> y) {
  const KernelRecurrence kernel = kernel_recurrence(spec);
  const Tensor q = dense(in.q), k = dense(in.k), v = dense(in.v), decay = dense(in.log_decay), offset = dense(in.q_log_offset);
  const auto tokens = [&](int64_t r) {
    return RecurrenceTokens<float>{q.row(r), k.row(r), v.row(r), row_or_null(decay, r), row_or_null(offset, r)};
  };
  each_kv_head(
      spec, kernel.state_size(),
      [&](int g, int64_t r, int64_t count, int64_t position, float* state) {
        recurrence_forward(kernel, g, count, position, tokens(r), state, y.out.row(r), row_or_null(y.log_norm, r));
      },
      [&](int g, int64_t r, int64_t position, float* state) {
        recurrence_step(kernel, g, position, tokens(r), state, y.out.row(r), row_or_null(y.log_norm, r));
      });
}

void RuntimeOps::rank_one(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in, Tensor y) {
  const KernelRankOne kernel = kernel_rank_one(spec);
  const Tensor q = dense(in.q), k = dense(in.k), v = dense(in.v), decay = dense(in.log_decay), a = dense(in.erase), b = dense(in.erase_key);
  const auto tokens = [&](int64_t r) {
    return RankOneTokens<float>{q.row(r), k.row(r), v.row(r), row_or_null(decay, r), a.row(r), row_or_null(b, r)};
  };
  each_kv_head(
      spec, kernel.state_size(),
      [&](int g, int64_t r, int64_t count, int64_t position, float* state) {
        rank_one_forward(kernel, g, count, position, tokens(r), state, y.row(r));
      },
      [&](int g, int64_t r, int64_t position, float* state) { rank_one_step(kernel, g, position, tokens(r), state, y.row(r)); });
}

void RuntimeOps::selective_scan(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in, Tensor y) {
  const KernelScan kernel = kernel_scan(spec);
  const Tensor q = dense(in.q), k = dense(in.k), v = dense(in.v), step = dense(in.log_decay);
  std::vector<float>& rates = scratch_.scan_rates[in.decay_rate->values.data()];
  if (rates.empty()) rates = scan_rates(spec, in.decay_rate->values);
  const auto forward = [&](int g, int64_t r, int64_t count, int64_t position, float* state) {
    const ScanTokens<float> tokens{q.row(r), k.row(r), v.row(r), step.row(r)};
    selective_scan_forward(kernel, g, count, position, tokens, rates.data(), state, y.row(r));
  };
  each_kv_head(spec, kernel.state_size(), forward,
               [&](int g, int64_t r, int64_t position, float* state) { forward(g, r, 1, position, state); });
}

// y_h += skip_h v of its kv head.
void RuntimeOps::add_skip(Tensor y, Tensor v, Weight skip, const RecurrenceSpec& spec) {
  const int group = spec.heads / spec.kv_heads, width = spec.value_dim;
  each_row(y.columns, [&](int64_t r) {
    for (int h = 0; h < spec.heads; ++h) {
      kernels_.add_scaled(v.row(r) + h / group * width, skip->values[h], width, y.row(r) + h * width);
    }
  });
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
