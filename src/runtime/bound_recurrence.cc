#include "runtime/bound_recurrence.h"

#include "mixers/kernel_specs.h"

namespace retort {
namespace {

using Rows = RecurrenceRows;

RecurrenceTokens<float> diagonal_tokens(const Rows& r) {
  return {r.q, r.written[Rows::kKey], r.written[Rows::kValue], r.written[Rows::kDecay], r.q_log_offset};
}
RankOneTokens<float> rank_one_tokens(const Rows& r) {
  const auto& w = r.written;
  return {r.q, w[Rows::kKey], w[Rows::kValue], w[Rows::kDecay], w[Rows::kErase], w[Rows::kEraseKey]};
}
ScanTokens<float> scan_tokens(const Rows& r) {
  return {r.q, r.written[Rows::kKey], r.written[Rows::kValue], r.written[Rows::kDecay]};
}

}  // namespace

int64_t BoundRecurrence::columns(Rows::Written input) const {
  const int64_t keys = int64_t(spec_.kv_heads) * spec_.key_dim, values = int64_t(spec_.kv_heads) * spec_.value_dim;
  switch (input) {
    case Rows::kKey: return keys;
    case Rows::kValue: return values;
    case Rows::kErase: return rank_one() ? keys : 0;
    case Rows::kEraseKey: return spec_.transition == Transition::kRankOne ? keys : 0;
    case Rows::kDecay:
    case Rows::kWrittenCount: break;
  }
  switch (spec_.decay) {
    case Decay::kNone: return 0;
    case Decay::kScalar: return spec_.kv_heads;
    case Decay::kPerKey: return keys;
    case Decay::kPerCell: break;
  }
  return values;
}

Rows BoundRecurrence::from(const Rows& rows, int64_t row) const {
  Rows r = rows;
  for (int i = 0; i < Rows::kWrittenCount; ++i) {
    if (r.written[i]) r.written[i] += row * columns(Rows::Written(i));
  }
  if (r.q) r.q += row * spec_.heads * spec_.key_dim;
  if (r.q_log_offset) r.q_log_offset += row * spec_.heads;
  return r;
}

void BoundRecurrence::step_one(int g, int64_t position, const Rows& token, float* state, float* out, float* log_norm) const {
  if (rank_one()) rank_one_step(kernel_rank_one(spec_), g, position, rank_one_tokens(token), state, out);
  else recurrence_step(kernel_recurrence(spec_), g, position, diagonal_tokens(token), state, out, log_norm);
}

void BoundRecurrence::step(int g, int64_t tokens, int64_t position, const Rows& rows, float* state, float* out, float* log_norm) const {
  if (scans()) return forward(g, tokens, position, rows, state, out, log_norm);  // the scan has one form
  for (int64_t t = 0; t < tokens; ++t) {
    step_one(g, position + t, from(rows, t), state, out ? out + t * spec_.heads * spec_.value_dim : nullptr,
             log_norm ? log_norm + t * spec_.heads : nullptr);
  }
}

void BoundRecurrence::forward(int g, int64_t tokens, int64_t position, const Rows& rows, float* state, float* out, float* log_norm) const {
  if (rank_one()) rank_one_forward(kernel_rank_one(spec_), g, tokens, position, rank_one_tokens(rows), state, out);
  else if (scans()) selective_scan_forward(kernel_scan(spec_), g, tokens, position, scan_tokens(rows), rates_, state, out);
  else recurrence_forward(kernel_recurrence(spec_), g, tokens, position, diagonal_tokens(rows), state, out, log_norm);
}

}  // namespace retort
