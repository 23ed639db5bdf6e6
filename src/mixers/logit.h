// Where the biases of gates start: the number whose sigmoid is what a gate should keep.
//
// Layer: mixers.
#pragma once

#include <cmath>

namespace retort {

// logit(p^power), 0 < p < 1, power > 0. By logarithms: p^power itself may be 0 or 1 in a double.
inline double logit_of_power(double p, double power) {
  const double log_kept = power * std::log(p);
  return log_kept - std::log(-std::expm1(log_kept));
}

}  // namespace retort
