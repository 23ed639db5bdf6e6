// Random numbers that are the same on every machine and for every compiler: xoshiro256++, seeded by splitmix64.
//
// Layer: runtime. Not thread-safe.
#pragma once

#include <bit>
#include <cstdint>

namespace retort {

class Random {
 public:
  explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15ull;
      uint64_t z = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ull;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
      word = z ^ (z >> 31);
    }
  }

  uint64_t next() {
    const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0], t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // [0, 1), 53 bits.
  double uniform() { return double(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_[4];
};

}  // namespace retort
