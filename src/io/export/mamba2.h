// Mamba-2 as other libraries keep it: [z; x; B; C; dt], where x and B have rows for every head. Ours have them once per kv head.
//
// Layer: io.
#pragma once

#include "io/export/builder.h"

namespace retort {

// Pieces of [x; B; C] of a tensor of ours with rows [x; B; C] from `first` on, each filled up with zeros for `padding` heads that we do not have.
inline std::vector<ExportPiece> mamba2_blocks(const ModelConfig& c, const std::string& ours, int64_t first, int64_t padding) {
  using P = ExportPiece;
  const int64_t g = int64_t{c.kv_heads} * c.head_dim, e = int64_t{c.heads} * c.head_dim;
  std::vector<P> pieces;
  for (const P& block : {P::repeat_slice(ours, first, g, c.kv_heads, c.group()), P::repeat_slice(ours, first + g, g, c.kv_heads, c.group()),
                         P::slice(ours, first + 2 * g, e)}) {
    pieces.push_back(block);
    if (padding > 0) pieces.push_back(P::constant(padding * c.head_dim, 0));
  }
  return pieces;
}

// Taps or biases of the convolution.
inline std::vector<ExportPiece> mamba2_channels(const ModelConfig& c, const std::string& ours, int64_t padding) {
  return mamba2_blocks(c, ours, 0, padding);
}

// `ours` is the layer's prefix.
inline std::vector<ExportPiece> mamba2_in_proj(const ModelConfig& c, const std::string& ours, int64_t padding) {
  using P = ExportPiece;
  const std::string name = ours + "in_proj.weight";
  const int64_t g = int64_t{c.kv_heads} * c.head_dim, e = int64_t{c.heads} * c.head_dim;
  std::vector<P> pieces = {P::slice(name, 0, e)};
  if (padding > 0) pieces.push_back(P::constant(padding * c.head_dim, 0));
  for (P& piece : mamba2_blocks(c, name, e, padding)) pieces.push_back(std::move(piece));
  pieces.push_back(P::slice(name, 2 * e + 2 * g, c.heads));
  if (padding > 0) pieces.push_back(P::constant(padding, 0));
  return pieces;
}

}  // namespace retort
