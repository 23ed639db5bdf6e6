// The grammar of GGUF, used by gguf.cc only.
//
// Layer: io.
//
//   file    = "GGUF" version:u32 tensors:u64 pairs:u64  pair{pairs}  tensor{tensors}  padding  data
//   pair    = key:string kind:u32 value            string = length:u64 bytes
//   value   = scalar | string | element_kind:u32 count:u64 element{count}        arrays of arrays are refused
//   tensor  = name:string dims:u32 size:u64{dims} type:u32 offset:u64            innermost size first; offset from data
//   data starts at, and every offset is, a multiple of general.alignment (32).
#pragma once

#include <cstdint>

#include "io/gguf.h"

namespace retort::gguf {

enum class Kind : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

const char* kind_name(uint32_t kind);
int kind_bytes(uint32_t kind);  // of a scalar; 0 for text, arrays and unknown kinds

}  // namespace retort::gguf
