// The operations of RuntimeOps that read and write a sequence's state.
#include <cmath>
#include <cstring>

#include "kernels/scratch.h"
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

}  // namespace

// The segment's last rows go where the oldest ones were. On trial all of them, in order: any of them may turn out to be the last.
void RuntimeOps::remember(const RowSegment& s, int64_t slots, Tensor x) {
  if (slots == 0) return;
  const Ring ring{s.sequence->fixed(next_slot(*s.sequence)), slots, x.columns};
  for (int64_t t = s.trial ? 0 : std::max<int64_t>(0, s.count - slots); t < s.count; ++t) {
    write_row(s, ring.row(s.sequence->position() + t), x.row(s.first + t), x.columns, t);
  }
}

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
    remember(s, taps - 1, x);
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
    remember(s, back, x);
  }
  ++slot_;
  return out;
}

// Tokens on trial meet a window one by one: how sums over it are cut depends on where the ring begins.
Normalised<Tensor> RuntimeOps::attention(Tensor q, Tensor k, Tensor v, int heads, int kv_heads, WindowConfig window) {
  const Normalised<Tensor> y{allocate(heads * (v.columns / kv_heads)), allocate(heads)};
  int64_t rounds = segments_.empty() ? 0 : 1;
  for (const RowSegment& s : segments_) {
    if (s.trial && window.size > 0) rounds = std::max(rounds, s.count);
  }
  for (int64_t round = 0; round < rounds; ++round) {
    scratch_.stretches.clear();
    for (const RowSegment& s : segments_) {
      const bool one = s.trial && window.size > 0;
      if (round < (one ? s.count : 1)) scratch_.stretches.push_back({&s, one ? round : 0, one ? 1 : s.count});
    }
    attend(q, k, v, y, kv_heads, window);
    if (window.size > 0) remember_window(k, v, kv_heads, window);
  }
  ++slot_;
  return y;
}

void RuntimeOps::attend(Tensor q, Tensor k, Tensor v, Normalised<Tensor> y, int kv_heads, WindowConfig window) {
  const int key_dim = k.columns / kv_heads, value_dim = v.columns / kv_heads, heads = q.columns / key_dim;
  scratch_.tasks.clear();
  scratch_.spans.resize(scratch_.stretches.size() * 4);
  for (size_t i = 0; i < scratch_.stretches.size(); ++i) {
    const RowSegment& s = *scratch_.stretches[i].segment;
    const int64_t first = s.first + scratch_.stretches[i].token, count = scratch_.stretches[i].count;
    const int64_t position = s.sequence->position() + scratch_.stretches[i].token;
    const StateLayout::Slot& slot = next_slot(*s.sequence);
    AttentionArgs args{q.row(first), q.stride, count, position, heads, kv_heads, key_dim, value_dim};
    args.scale = 1.0f / std::sqrt(float(key_dim));
    args.out = y.out.row(first);
    args.out_stride = y.out.stride;
    args.log_norm = y.log_norm.row(first);
    args.log_norm_stride = heads;
    if (window.size == 0) {
      KvCache& cache = s.sequence->cache(slot);
      cache.append(k.row(first), k.stride, v.row(first), v.stride, count);
      args.type = cache.type();
      args.cache = cache.spans();
      args.one_by_one = s.trial != nullptr;
    } else {
      const WindowRows rows{s.sequence->fixed(slot), window.sinks, window.size, k.columns, k.columns + v.columns, kv_heads};
      CacheSpan* spans = scratch_.spans.data() + 4 * i;
      int used = rows.spans(position, spans);
      spans[used++] = rows.make_span(k.row(first), v.row(first), k.stride, v.stride, position, count);
      args.type = CacheType::kF32;
      args.cache = {spans, size_t(used)};
      args.window = window.size;
      args.sinks = window.sinks;
    }
    scratch_.tasks.push_back(args);
  }
  ::retort::attention(pool_, scratch_.tasks, scratch_.attention);
}

void RuntimeOps::remember_window(Tensor k, Tensor v, int kv_heads, WindowConfig window) {
  for (const Stretch& stretch : scratch_.stretches) {
    const RowSegment& s = *stretch.segment;
    const int64_t begin = s.sequence->position(), end = begin + stretch.token + stretch.count;
    const WindowRows rows{s.sequence->fixed(next_slot(*s.sequence)), window.sinks, window.size, k.columns, k.columns + v.columns,
                          kv_heads};
    for (int64_t p = begin + stretch.token; p < end; ++p) {
      if (p >= window.sinks && p < end - window.size) continue;
      write_row(s, rows.row(p), k.row(s.first + p - begin), k.columns, p - begin);
      write_row(s, rows.row(p) + k.columns, v.row(s.first + p - begin), v.columns, p - begin);
    }
  }
}

void RuntimeOps::write_row(const RowSegment& s, float* row, const float* values, int64_t columns, int64_t token) {
  if (s.trial) s.trial->overwrite(*s.sequence, row, values, columns, token);
  else std::memcpy(row, values, size_t(columns) * sizeof(float));
}

Tensor RuntimeOps::dense(Tensor x) {
  if (!x || x.stride == x.columns || rows_ <= 1) return x;
  return map_rows(x, [&](const float* in, float* out, int64_t) { std::memcpy(out, in, size_t(x.columns) * sizeof(float)); });
}

namespace {

float* row_or_null(Tensor x, int64_t r) { return x ? x.row(r) : nullptr; }

}  // namespace

// -exp(decay_rate), as the kernel reads it: per kv head [K, V] instead of [V, K].
const float* RuntimeOps::scan_rates(const RecurrenceSpec& s, Weight decay_rate) {
  std::vector<float>& rates = scratch_.scan_rates[decay_rate->values.data()];
  if (!rates.empty()) return rates.data();
  rates.resize(decay_rate->values.size());
  for (int64_t g = 0; g < s.kv_heads; ++g) {
    for (int64_t i = 0; i < s.key_dim; ++i) {
      for (int64_t c = 0; c < s.value_dim; ++c) {
        rates[size_t((g * s.key_dim + i) * s.value_dim + c)] = -std::exp(decay_rate->values[size_t((g * s.value_dim + c) * s.key_dim + i)]);
      }
    }
  }
  return rates.data();
}

Normalised<Tensor> RuntimeOps::recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in) {
  Normalised<Tensor> y{allocate(spec.heads * spec.value_dim), {}};
  if (spec.joins()) y.log_norm = allocate(spec.heads);
  const BoundRecurrence kernel(spec, spec.decay == Decay::kPerCell ? scan_rates(spec, in.decay_rate) : nullptr);
  RecurrenceRows all;
  all.q = dense(in.q).data;
  all.q_log_offset = dense(in.q_log_offset).data;
  const Tensor written[RecurrenceRows::kWrittenCount] = {in.k, in.v, in.log_decay, in.erase, in.erase_key};
  for (int i = 0; i < RecurrenceRows::kWrittenCount; ++i) all.written[i] = dense(written[i]).data;
  pool_.run_chunks(int64_t(segments_.size()) * spec.kv_heads, [&](int64_t chunk) {
    const RowSegment& s = segments_[size_t(chunk / spec.kv_heads)];
    const int g = int(chunk % spec.kv_heads);
    const int64_t position = s.sequence->position(), size = kernel.state_size();
    float* state = s.sequence->fixed(next_slot(*s.sequence)) + g * size;
    const RecurrenceRows rows = kernel.from(all, s.first);
    float *out = y.out.row(s.first), *log_norm = row_or_null(y.log_norm, s.first);
    ScratchFrame frame;
    if (s.trial) {  // the state stays what the trial goes back to
      float* copy = frame.alloc<float>(size);
      std::copy_n(state, size, copy);
      state = copy;
    }
    if (s.trial || s.count <= kStepTokens) kernel.step(g, s.count, position, rows, state, out, log_norm);
    else kernel.forward(g, s.count, position, rows, state, out, log_norm);
  });
  for (const RowSegment& s : segments_) {
    if (s.trial) s.trial->log(next_slot(*s.sequence), kernel, kernel.from(all, s.first));
  }
  ++slot_;
  if (in.skip) add_skip(y.out, in.v, in.skip, spec);
  return y;
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
