// Where packed weights lie: side by side in large pieces of huge pages, since a decoding step walks all of them and a page of 4 KiB would
// cost a fault when it is filled and a miss of the address cache every time it is read.
//
// Layer: kernels. Thread-safe.
#pragma once

#include <cstddef>
#include <memory>

namespace retort {

// `bytes` of memory from an address that is a multiple of 64, not cleared; null: there is none. A piece is given back when everything in it
// has been.
std::shared_ptr<std::byte> weight_memory(size_t bytes);

}  // namespace retort
