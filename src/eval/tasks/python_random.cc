#include "eval/tasks/python_random.h"

#include <bit>
#include <numeric>
#include <unordered_set>

namespace retort::harness {

PythonRandom::PythonRandom(uint32_t seed) {
  state_[0] = 19650218u;
  for (uint32_t i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ state_[i - 1] >> 30) + i;
  // init_by_array with a key of one word: the key's index stays 0.
  size_t i = 1;
  const auto mix = [&](uint32_t factor) { return state_[i] ^ (state_[i - 1] ^ state_[i - 1] >> 30) * factor; };
  const auto advance = [&] {
    if (++i < kWords) return;
    state_[0] = state_[kWords - 1];
    i = 1;
  };
  for (size_t k = 0; k < kWords; ++k, advance()) state_[i] = mix(1664525u) + seed;
  for (size_t k = 0; k + 1 < kWords; ++k, advance()) state_[i] = mix(1566083941u) - uint32_t(i);
  state_[0] = 0x80000000u;
}

void PythonRandom::refill() {
  constexpr size_t kShift = 397;
  for (size_t i = 0; i < kWords; ++i) {
    const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
    state_[i] = state_[(i + kShift) % kWords] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0u);
  }
  used_ = 0;
}

uint32_t PythonRandom::next() {
  if (used_ == kWords) refill();
  uint32_t y = state_[used_++];
  y ^= y >> 11;
  y ^= y << 7 & 0x9d2c5680u;
  y ^= y << 15 & 0xefc60000u;
  return y ^ y >> 18;
}

double PythonRandom::uniform() {
  const double high = next() >> 5, low = next() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

uint32_t PythonRandom::below(uint32_t bound) {
  const int bits = std::bit_width(bound);
  uint32_t value;
  do value = next() >> (32 - bits);
  while (value >= bound);
  return value;
}

std::vector<uint32_t> PythonRandom::sample(uint32_t population, uint32_t count) {
  // Python keeps a pool of all indices when that is smaller than a set of those already drawn.
  uint64_t set_size = 21;
  if (count > 5) {
    uint64_t power = 1;
    while (power < 3 * uint64_t(count)) power *= 4;
    set_size += power;
  }
  std::vector<uint32_t> out;
  out.reserve(count);
  if (population <= set_size) {
    std::vector<uint32_t> pool(population);
    std::iota(pool.begin(), pool.end(), 0u);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t j = below(population - i);
      out.push_back(pool[j]);
      pool[j] = pool[population - i - 1];
    }
    return out;
  }
  std::unordered_set<uint32_t> drawn;
  while (out.size() < count) {
    const uint32_t j = below(population);
    if (drawn.insert(j).second) out.push_back(j);
  }
  return out;
}

}  // namespace retort::harness
