// Values into the number formats that Retort writes: F32, F16, BF16, and blocks of Q8_0, Q4_0 and Q4_1 as ggml encodes them.
//
// Layer: io. Thread-safe: pure functions.
#pragma once

#include <vector>

#include "io/quant_blocks.h"

namespace retort {

// True for the formats above.
bool can_encode(TensorType type);

// `values` in rows of the format's blocks: their number is a multiple of block_values, and can_encode(type).
//
//   Q8_0  d = max|x| / 127, q = round(x / d)
//   Q4_0  d = (the x of largest magnitude) / -8, q = trunc(x / d + 8.5), so that this x is exact up to d's rounding
//   Q4_1  m = min x, d = (max x - m) / 15, q = trunc((x - m) / d + 0.5)
std::vector<std::byte> encode_values(TensorType type, const std::vector<float>& values);

}  // namespace retort
