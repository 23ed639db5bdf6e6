#include "model/layout.h"

#include <cmath>

namespace retort {

std::vector<int> interleaved_layers(double fraction, int layers) {
  std::vector<int> kept;
  for (int l = 0; l < layers; ++l) {
    if (std::floor((l + 1) * fraction + 1e-9) > std::floor(l * fraction + 1e-9)) kept.push_back(l);
  }
  return kept;
}

}  // namespace retort
