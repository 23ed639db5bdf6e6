// A recurrence of the equations bound to the kernel that runs it: the only place that chooses between the kernels.
//
// Layer: runtime. Thread-safe: every call touches one kv head of one sequence.
#pragma once

#include <cstdint>

#include "mixers/mixer.h"

namespace retort {

// Rows of one sequence side by side; null where the recurrence has no such input.
struct RecurrenceRows {
  // What moves the state; the others only read it.
  enum Written { kKey, kValue, kDecay, kErase, kEraseKey, kWrittenCount };
  const float* written[kWrittenCount] = {};  // [T, BoundRecurrence::columns]
  const float* q = nullptr;                  // [T, H*K]
  const float* q_log_offset = nullptr;       // [T, H]
};

class BoundRecurrence {
 public:
  // `rates`: Decay::kPerCell only, -exp(decay_rate) as [G*K, V]; must outlive this.
  BoundRecurrence(const RecurrenceSpec& spec, const float* rates) : spec_(spec), rates_(rates) {}

  int kv_heads() const { return spec_.kv_heads; }
  // Numbers in the state of one kv head.
  int64_t state_size() const { return int64_t(spec_.key_dim) * spec_.state_columns(); }
  int64_t columns(RecurrenceRows::Written input) const;
  RecurrenceRows from(const RecurrenceRows& rows, int64_t row) const;

  // Tokens one by one, in the form of decoding: any split gives the same bits. state: the kv head's own; out [T, H*V] and
  // log_norm [T, H] (joined recurrences only) are of all heads. Without rows.q only the state moves, to the same bits.
  void step(int kv_head, int64_t tokens, int64_t position, const RecurrenceRows& rows, float* state, float* out, float* log_norm) const;
  // The same in chunks: quicker for many tokens, in other sums.
  void forward(int kv_head, int64_t tokens, int64_t position, const RecurrenceRows& rows, float* state, float* out, float* log_norm) const;

 private:
  bool scans() const { return spec_.decay == Decay::kPerCell; }
  bool rank_one() const { return spec_.transition != Transition::kDiagonal; }
  void step_one(int kv_head, int64_t position, const RecurrenceRows& token, float* state, float* out, float* log_norm) const;

  RecurrenceSpec spec_;
  const float* rates_;
};

}  // namespace retort
