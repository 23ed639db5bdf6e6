// What a mixer's recurrence is to the kernels that run it: the same for serving and for training.
//
// Layer: mixers, above kernels; the mixers themselves know nothing of kernels.
#pragma once

#include "base/error.h"
#include "kernels/rank_one.h"
#include "kernels/recurrence.h"
#include "kernels/selective_scan.h"
#include "mixers/mixer.h"

namespace retort {

inline KernelDecay kernel_decay(Decay decay) {
  switch (decay) {
    case Decay::kNone: return KernelDecay::kNone;
    case Decay::kScalar: return KernelDecay::kScalar;
    case Decay::kPerKey: return KernelDecay::kPerKey;
    case Decay::kPerCell: break;
  }
  RETORT_CHECK(false, "a decay per cell is the scan's");
  return KernelDecay::kNone;
}

inline KernelNormaliser kernel_normaliser(Normaliser normaliser) {
  switch (normaliser) {
    case Normaliser::kNone: break;
    case Normaliser::kSum: return KernelNormaliser::kSum;
    case Normaliser::kAtLeastOne: return KernelNormaliser::kAtLeastOne;
  }
  return KernelNormaliser::kNone;
}

// A diagonal transition with any decay but one per cell.
inline KernelRecurrence kernel_recurrence(const RecurrenceSpec& s) {
  return {kernel_decay(s.decay), s.heads, s.kv_heads, s.key_dim, s.value_dim, kernel_normaliser(s.normaliser), s.norm_eps, s.first_position};
}

// A transition that erases.
inline KernelRankOne kernel_rank_one(const RecurrenceSpec& s) {
  return {kernel_decay(s.decay), s.transition == Transition::kDelta, s.heads, s.kv_heads, s.key_dim, s.value_dim, s.first_position};
}

// A decay per cell.
inline KernelScan kernel_scan(const RecurrenceSpec& s) { return {s.heads, s.kv_heads, s.key_dim, s.value_dim, s.first_position}; }

}  // namespace retort
