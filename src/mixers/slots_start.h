// Where slots start from: k-means over the teacher's keys, so that an untrained student is softmax attention over quantised keys.
//
// Layer: mixers. Plain functions, single-threaded, deterministic.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace retort {

// What a mixer may learn from text before training, of one kv head: its keys and its query heads' second moments, before rope.
struct HeadStatistics {
  int64_t tokens = 0;
  int head_dim = 0;
  int group = 0;
  const float* keys = nullptr;              // [tokens, head_dim]
  const double* query_moments = nullptr;    // [group, head_dim, head_dim]: mean of q q^T
  RopeConfig rope;
  uint64_t seed = 0;
};

struct SlotsStart {
  std::vector<float> write_weight, write_bias;  // [M, d], [M]
  std::vector<float> read_weight;               // [group, M, d]; the read bias starts at 0
};

inline constexpr double kSlotsSharpness = 16;   // tau: of the write softmax, in units of twice the mean distance
inline constexpr int kSlotsRounds = 8;

SlotsStart slots_start(const HeadStatistics& head, int slots, double sharpness = kSlotsSharpness);

}  // namespace retort
