// The backend that everything is held against: plain loops on doubles, every state kept as the whole history.
//
// Layer: mixers. Header-only; for tests and oracles. Not thread-safe.
//
// The recurrence comes in its three forms (mixers.md 3.1): token by token, in chunks, and as the mixing matrix. All three must
// give the same numbers; kMatrix also leaves every head's matrix in `matrices`.
//
//   ReferenceState state;
//   ReferenceOps ops(shape, ReferenceForm::kStep);
//   ops.begin({{&state, rows}});                     // one entry per sequence, rows one after another
//   auto y = part_forward<Mixer>(ops, config, shape, weights, x);
//   ops.end();                                       // the states have moved on by their rows
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "mixers/list.h"
#include "mixers/reference_diagonal.h"
#include "mixers/reference_rank_one.h"
#include "mixers/reference_rows.h"
#include "mixers/reference_scan.h"

namespace retort {

enum class ReferenceForm { kStep, kChunked, kMatrix };

// One stateful operation of one sequence: all rows it has seen, and for the recurrence what they sum to.
struct ReferenceSlot {
  std::vector<std::vector<double>> a, b, c;  // rows by position: x; or k, v; or k, v, log decay
  std::vector<double> sum;                   // [G, K, V + 1]; [G, K, V] with a decay per cell
  std::vector<ReferenceRankOne> erasing;     // by kv head: instead of the rest, for a transition that is not diagonal
};

struct ReferenceState {
  int64_t position = 0;
  std::vector<ReferenceSlot> slots;
};

class ReferenceOps : public ReferenceRows {
 public:
  struct Segment {
    ReferenceState* state;
    int64_t rows;
  };
  // One head of one sequence: weights[t][s], t from `position` on, what they were divided by included.
  struct Matrix {
    int segment, head;
    bool recurrent;
    std::vector<std::vector<double>> weights;
  };

  explicit ReferenceOps(const PartShape& shape, ReferenceForm form = ReferenceForm::kStep, int64_t chunk = 7)
      : shape_(shape), form_(form), chunk_(chunk) {}

  void begin(std::vector<Segment> segments) {
    segments_ = std::move(segments);
    slot_ = 0;
    matrices.clear();
  }
  void end() {
    for (Segment& s : segments_) s.state->position += s.rows;
  }

  std::vector<Matrix> matrices;  // kMatrix, and attention in every form: in call order, by segment, by head

  // ---- along the sequence -------------------------------------------------------------------------------------------------

  Tensor rope(const Tensor& x, int heads) const {
    Tensor y = x;
    const int64_t d = x.columns / heads, half = d / 2;
    const auto frequencies = shape_.rope.frequencies(int(d));
    each_row([&](const Segment& s, int64_t r, int64_t t) {
      for (int h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          const double angle = double(s.state->position + t) * frequencies[size_t(i)];
          const double *from = x.row(r) + h * d, c = std::cos(angle), n = std::sin(angle);
          y.row(r)[h * d + i] = from[i] * c - from[half + i] * n;
          y.row(r)[h * d + half + i] = from[half + i] * c + from[i] * n;
        }
      }
    });
    return y;
  }

  Tensor short_conv(const Tensor& x, const Weight& w, const Weight& b) {
    Tensor y = x;
    const int64_t taps = w.shape[1];
    each_row([&](Segment& s, int64_t r, int64_t t) {
      auto& rows = slot(s).a;
      rows.emplace_back(x.row(r), x.row(r) + x.columns);
      const int64_t now = s.state->position + t;
      for (int64_t i = 0; i < x.columns; ++i) {
        double sum = b ? b[i] : 0;
        for (int64_t back = 0; back < taps && back <= now; ++back) sum += w[i * taps + taps - 1 - back] * rows[size_t(now - back)][size_t(i)];
        y.row(r)[i] = sum;
      }
    });
    ++slot_;
    return y;
  }

  Tensor leaving(const Tensor& x) { return shape_.window.size == 0 ? x : earlier(x, shape_.window.size); }
  Tensor previous(const Tensor& x) { return earlier(x, 1); }

  Normalised<Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads, WindowConfig window) {
    const int64_t d = k.columns / kv_heads, V = v.columns / kv_heads, group = heads / kv_heads;
    Normalised<Tensor> y{Tensor(q.rows, heads * V), Tensor(q.rows, heads)};
    each_row([&](Segment& s, int64_t r, int64_t t) {
      ReferenceSlot& held = slot(s);
      held.a.emplace_back(k.row(r), k.row(r) + k.columns);
      held.b.emplace_back(v.row(r), v.row(r) + v.columns);
      const int64_t now = s.state->position + t;
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<double> z(size_t(now + 1), -HUGE_VAL);
        for (int64_t j = 0; j <= now; ++j) {
          if (window.size > 0 && j <= now - window.size && j >= window.sinks) continue;
          double dot = 0;
          for (int64_t i = 0; i < d; ++i) dot += q.row(r)[h * d + i] * held.a[size_t(j)][size_t(h / group * d + i)];
          z[size_t(j)] = dot / std::sqrt(double(d));
        }
        const double most = *std::max_element(z.begin(), z.end());
        double sum = 0;
        for (double& e : z) sum += e = std::exp(e - most);
        for (int64_t j = 0; j <= now; ++j) {
          z[size_t(j)] /= sum;
          for (int64_t i = 0; i < V; ++i) y.out.row(r)[h * V + i] += z[size_t(j)] * held.b[size_t(j)][size_t(h / group * V + i)];
        }
        y.log_norm.row(r)[h] = most + std::log(sum);
        if (form_ == ReferenceForm::kMatrix) matrix(s, int(h), false).weights.push_back(z);
      }
    });
    ++slot_;
    return y;
  }

  Normalised<Tensor> recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<ReferenceOps>& in) {
    Normalised<Tensor> y{Tensor(in.q.rows, spec.heads * spec.value_dim), spec.joins() ? Tensor(in.q.rows, spec.heads) : Tensor()};
    int64_t first = 0;
    for (Segment& s : segments_) {
      ReferenceSlot& held = slot(s);
      if (spec.transition != Transition::kDiagonal) {
        rank_one(spec, in, s, held, first, y.out);
      } else if (spec.decay == Decay::kPerCell) {
        held.sum.resize(size_t(spec.kv_heads) * spec.key_dim * spec.value_dim, 0.0);
        scan(spec, in, s, held, first, y.out);
      } else {
        held.sum.resize(size_t(spec.kv_heads) * spec.key_dim * (spec.value_dim + 1), 0.0);
        diagonal(spec, in, s, held, first, y);
      }
      first += s.rows;
    }
    if (in.skip) {
      for (int64_t r = 0; r < y.out.rows; ++r) {
        for (int64_t i = 0; i < y.out.columns; ++i) {
          const int64_t h = i / spec.value_dim, g = h / (spec.heads / spec.kv_heads);
          y.out.row(r)[i] += in.skip[h] * in.v.row(r)[g * spec.value_dim + i % spec.value_dim];
        }
      }
    }
    ++slot_;
    return y;
  }

 private:
  using Inputs = RecurrenceInputs<ReferenceOps>;
  // fn(segment, row, index in the segment)
  template <class Self, class Fn>
  static void each(Self& self, Fn&& fn) {
    int64_t first = 0;
    for (auto& s : self.segments_) {
      for (int64_t t = 0; t < s.rows; ++t) fn(s, first + t, t);
      first += s.rows;
    }
  }
  template <class Fn>
  void each_row(Fn&& fn) const { each(*this, fn); }
  template <class Fn>
  void each_row(Fn&& fn) { each(*this, fn); }

  // The row `back` tokens before in the same sequence, zeros where there is none.
  Tensor earlier(const Tensor& x, int64_t back) {
    Tensor y(x.rows, x.columns);
    each_row([&](Segment& s, int64_t r, int64_t t) {
      auto& rows = slot(s).a;
      rows.emplace_back(x.row(r), x.row(r) + x.columns);
      const int64_t from = s.state->position + t - back;
      if (from >= 0) std::copy(rows[size_t(from)].begin(), rows[size_t(from)].end(), y.row(r));
    });
    ++slot_;
    return y;
  }

  ReferenceSlot& slot(Segment& s) const {
    if (s.state->slots.size() <= slot_) s.state->slots.resize(slot_ + 1);
    return s.state->slots[slot_];
  }
  Matrix& matrix(const Segment& s, int head, bool recurrent) {
    const int segment = int(&s - segments_.data());
    for (Matrix& m : matrices) {
      if (m.segment == segment && m.head == head && m.recurrent == recurrent) return m;
    }
    return matrices.emplace_back(Matrix{segment, head, recurrent, {}});
  }

  void scan(const RecurrenceSpec& spec, const Inputs& in, const Segment& s, ReferenceSlot& held, int64_t first, Tensor& out) {
    for (int64_t r = first; r < first + s.rows; ++r) {
      const double writes = int64_t(held.a.size()) >= spec.first_position ? 1 : 0;
      const auto row = [&](const Tensor& x, double factor) {
        std::vector<double> values(x.row(r), x.row(r) + x.columns);
        for (double& e : values) e *= factor;
        return values;
      };
      held.a.push_back(row(in.k, writes)), held.b.push_back(row(in.v, 1)), held.c.push_back(row(in.log_decay, writes));
    }
    const ReferenceScan scan{spec, in.decay_rate.values, held.a, held.b, held.c, held.sum};
    const int64_t begin = s.state->position, end = begin + s.rows;
    const auto q = [&](int64_t t) { return in.q.row(first + t - begin); };
    const auto y = [&](int64_t t) { return out.row(first + t - begin); };
    switch (form_) {
      case ReferenceForm::kStep: scan.by_steps(begin, end, q, y); break;
      case ReferenceForm::kChunked: scan.by_chunks(begin, end, chunk_, q, y); break;
      case ReferenceForm::kMatrix:
        scan.by_matrix(begin, end, q, y, [&](int64_t h, std::vector<double> weights) {
          matrix(s, int(h), true).weights.push_back(std::move(weights));
        });
        break;
    }
  }

  // ---- the recurrence -----------------------------------------------------------------------------------------------------

  // Rows of k, [v; 1] and the log-decay per key. A token before first_position writes zeros and decays nothing.
  static void remember(const RecurrenceSpec& spec, const Inputs& in, int64_t r, ReferenceSlot& held) {
    const int64_t G = spec.kv_heads, K = spec.key_dim, V = spec.value_dim;
    const bool writes = int64_t(held.a.size()) >= spec.first_position;
    std::vector<double> k(size_t(G * K), 0.0), v(size_t(G * (V + 1)), 1.0), l(size_t(G * K), 0.0);
    for (int64_t i = 0; i < G * K && writes; ++i) {
      k[size_t(i)] = in.k.row(r)[i];
      if (spec.decay == Decay::kScalar) l[size_t(i)] = in.log_decay.row(r)[i / K];
      if (spec.decay == Decay::kPerKey) l[size_t(i)] = in.log_decay.row(r)[i];
    }
    for (int64_t i = 0; i < G * V; ++i) v[size_t(i / V * (V + 1) + i % V)] = in.v.row(r)[i];
    held.a.push_back(std::move(k)), held.b.push_back(std::move(v)), held.c.push_back(std::move(l));
  }

  // What the output is divided by, from z . q; 0 where nothing was written.
  static double divisor(const RecurrenceSpec& spec, double sum) {
    switch (spec.normaliser) {
      case Normaliser::kNone: break;
      case Normaliser::kSum: return sum > kLeastNorm ? sum + spec.norm_eps : 0;
      case Normaliser::kAtLeastOne: return std::max(std::fabs(sum), 1.0);
    }
    return 1;
  }

  // y = S^T q with z . q last. [V + 1] -> the row's head.
  static void finish(const RecurrenceSpec& spec, const Inputs& in, int64_t r, int64_t h, const std::vector<double>& sums,
                     Normalised<Tensor>& y) {
    const int64_t V = spec.value_dim;
    const double norm = divisor(spec, sums[size_t(V)]);
    for (int64_t i = 0; i < V; ++i) y.out.row(r)[h * V + i] = norm > 0 ? sums[size_t(i)] / norm : 0;
    if (!spec.joins()) return;
    y.log_norm.row(r)[h] = norm > 0 ? std::log(norm) + (in.q_log_offset ? in.q_log_offset.row(r)[h] : 0) : kNothingWritten;
  }

  void diagonal(const RecurrenceSpec& spec, const Inputs& in, const Segment& s, ReferenceSlot& held, int64_t first, Normalised<Tensor>& y) {
    for (int64_t t = 0; t < s.rows; ++t) remember(spec, in, first + t, held);
    const ReferenceDiagonal diagonal{spec, held.a, held.b, held.c, held.sum};
    const int64_t begin = s.state->position, end = begin + s.rows;
    const auto q = [&](int64_t t) { return in.q.row(first + t - begin); };
    const auto take = [&](int64_t t, int64_t h, const std::vector<double>& sums) { finish(spec, in, first + t - begin, h, sums, y); };
    switch (form_) {
      case ReferenceForm::kStep: diagonal.by_steps(begin, end, q, take); break;
      case ReferenceForm::kChunked: diagonal.by_chunks(begin, end, chunk_, q, take); break;
      case ReferenceForm::kMatrix:
        diagonal.by_matrix(begin, end, q, take, [&](int64_t h, std::vector<double> weights, double sum) {
          const double norm = divisor(spec, sum);
          for (double& w : weights) w = norm > 0 ? w / norm : 0;
          matrix(s, int(h), true).weights.push_back(std::move(weights));
        });
    }
  }

  void rank_one(const RecurrenceSpec& spec, const Inputs& in, Segment& s, ReferenceSlot& held, int64_t first, Tensor& y) {
    const int64_t K = spec.key_dim, V = spec.value_dim, begin = s.state->position, end = begin + s.rows;
    const int group = spec.heads / spec.kv_heads;
    held.erasing.resize(size_t(spec.kv_heads), {{}, {}, {}, {}, {}, std::vector<std::vector<double>>(size_t(K), std::vector<double>(size_t(V), 0.0))});
    for (int g = 0; g < spec.kv_heads; ++g) {
      ReferenceRankOne& head = held.erasing[size_t(g)];
      for (int64_t t = begin; t < end; ++t) {
        const bool writes = t >= spec.first_position;
        const int64_t r = first + t - begin;
        const auto row = [&](const Tensor& x, int64_t width) {
          return writes ? std::vector<double>(x.row(r) + g * width, x.row(r) + (g + 1) * width) : std::vector<double>(size_t(width), 0.0);
        };
        head.k.push_back(row(in.k, K)), head.v.push_back(row(in.v, V)), head.a.push_back(row(in.erase, K));
        head.b.push_back(spec.transition == Transition::kDelta ? head.k.back() : row(in.erase_key, K));
        head.l.push_back(spec.decay == Decay::kPerKey ? row(in.log_decay, K) : std::vector<double>(size_t(K), 0.0));
        if (spec.decay == Decay::kScalar) head.l.back().assign(size_t(K), row(in.log_decay, 1)[0]);
      }
      const auto query = [&](int64_t t, int h) { return in.q.row(first + t - begin) + (g * group + h) * K; };
      const auto take = [&](int64_t t, int h, const std::vector<double>& out) {
        std::copy(out.begin(), out.end(), y.row(first + t - begin) + (g * group + h) * V);
      };
      switch (form_) {
        case ReferenceForm::kStep: head.steps(begin, end, group, query, take); break;
        case ReferenceForm::kChunked: head.chunks(begin, end, chunk_, group, query, take); break;
        case ReferenceForm::kMatrix:
          head.matrix(begin, end, group, query, take, [&](int64_t, int h, const std::vector<double>& weights) {
            matrix(s, g * group + h, true).weights.push_back(weights);
          });
      }
    }
  }

  const PartShape& shape_;
  ReferenceForm form_;
  int64_t chunk_;
  std::vector<Segment> segments_;
  size_t slot_ = 0;
};

}  // namespace retort
