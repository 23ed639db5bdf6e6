// Which layers of a hybrid keep attention when nothing was measured.
//
// Layer: model. Thread-safe: a pure function.
#pragma once

#include <vector>

namespace retort {

// The layers that a kept fraction names, evenly spread; of f = 1/p those with i mod p = p - 1 (Mamba in the Llama's released layouts).
std::vector<int> interleaved_layers(double fraction, int layers);

}  // namespace retort
