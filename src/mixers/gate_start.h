// Where the biases of gates start: the number whose sigmoid, or softplus, is what a gate should give.
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

inline double logit(double p) { return logit_of_power(p, 1); }

// log(e^y - 1), y > 0; for large y as well.
inline double inverse_softplus(double y) { return y + std::log(-std::expm1(-y)); }

}  // namespace retort
