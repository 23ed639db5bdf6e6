// Random numbers of the data pipeline: functions of seeds, the same on every machine.
//
// Layer: train, torch-free.
#pragma once

#include <cstdint>

namespace retort::train {

// A well-mixed function of its inputs: seeds for steps, batches, stages.
inline uint64_t mix_seed(uint64_t seed, uint64_t a, uint64_t b = 0) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (a + 1) + 0xd1b54a32d192ed03ull * b;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

struct Random {
  uint64_t state;
  uint64_t next() { return state = mix_seed(state, 0x9e3779b97f4a7c15ull); }
  // Uniform in [0, n).
  uint64_t below(uint64_t n) { return uint64_t((static_cast<unsigned __int128>(next()) * n) >> 64); }
};

}  // namespace retort::train
