// Where slots start from: k-means over the teacher's keys, so that an untrained student is softmax attention over quantised keys.
//
// A mixer with such a start specialises DataStart in a header of its own that train/student_start.cc includes.
//
// Layer: mixers. Plain functions, single-threaded, deterministic.
#pragma once

#include <cstdint>
#include <vector>

#include "mixers/slots.h"

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

// Where a start writes: block(weight, i, n) is the i-th of n equal blocks of a tensor of the part's table.
class StartValues {
 public:
  virtual ~StartValues() = default;
  virtual float* block(int weight, int64_t i, int64_t n) = 0;
};

// fill(config, shape, statistics, head, values) starts the part's kv head number `head`. The primary template has none.
template <class Mixer>
struct DataStart {};

struct SlotsStart {
  std::vector<float> write_weight, write_bias;  // [M, d], [M]
  std::vector<float> read_weight;               // [group, M, d]; the read bias starts at 0
};

inline constexpr double kSlotsSharpness = 16;   // tau: of the write softmax, in units of twice the mean distance
inline constexpr int kSlotsRounds = 8;

SlotsStart slots_start(const HeadStatistics& head, int slots, double sharpness = kSlotsSharpness);

template <>
struct DataStart<Slots> {
  static void fill(const Slots::Config& config, const PartShape& shape, const HeadStatistics& statistics, int head, StartValues& values);
};

}  // namespace retort
