// Python's `random.Random`: the harness draws its examples and its bootstraps with it, so the same numbers must come here.
//
// Layer: eval. Belongs to one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace retort::harness {

// MT19937 (Matsumoto and Nishimura 1998), seeded by init_by_array([seed]) as Python does for small integers.
class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed);

  uint32_t next();                 // 32 bits
  double uniform();                // random(): 53 bits, in [0, 1)
  uint32_t below(uint32_t bound);  // randbelow: uniform in [0, bound), bound at least 1
  // sample(range(population), count): distinct, in the order drawn. count <= population.
  std::vector<uint32_t> sample(uint32_t population, uint32_t count);

 private:
  static constexpr size_t kWords = 624;
  void refill();

  std::array<uint32_t, kWords> state_;
  size_t used_ = kWords;
};

}  // namespace retort::harness
