// What a mixer may learn from text before training. A mixer that does has, beside its tensor table (mixers/mixer.h),
//
//   static void start_from_data(const Config&, const PartShape&, const HeadStatistics&, int head, StartValues&);
//
// which the trainer calls for each of the part's kv heads once the tensors are filled as the table says.
//
// Layer: mixers.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace retort {

// One kv head on text: its keys, and the second moments of its query heads, before rope.
struct HeadStatistics {
  int64_t tokens = 0;
  int head_dim = 0;
  int group = 0;
  const float* keys = nullptr;              // [tokens, head_dim]
  const double* query_moments = nullptr;    // [group, head_dim, head_dim]: mean of q q^T
  RopeConfig rope;
  uint64_t seed = 0;
};

// Where a start writes: block(weight, i, n) is the i-th of n equal blocks of a tensor of the part's table.
class StartValues {
 public:
  virtual ~StartValues() = default;
  virtual float* block(int weight, int64_t i, int64_t n) = 0;
};

}  // namespace retort
