// Mamba-2 as other libraries keep it: one projection to [z; x; B; C; dt], where x and B have rows for every head. Ours have them once per
// kv head, and z and dt in tensors of their own.
//
// Layer: io.
#pragma once

#include "io/export/builder.h"

namespace retort {

// The rules of every class that has it, and attention beside it.
inline Status mamba2_fits(const ModelConfig& c, const OneMixer& one, const std::string& target) {
  if (one.fields.at("rope") == 1) return wont_fit(target, "field 'rope'", 1, "Mamba-2 there rotates nothing");
  if (c.qk_norm) return wont_fit(target, "qk_norm", "on", "there are no norms on q and k, nor on C and B");
  if (one.kept_window.size > 0) return wont_fit(target, "the window of the attention layers", one.kept_window.size, "attention there sees everything");
  return {};
}

// [x; B; C] of one of our tensors with such rows, each filled up with zeros for `padding` heads that we do not have.
inline std::vector<ExportPiece> mamba2_channels(const ModelConfig& c, const std::string& ours, int64_t padding) {
  using P = ExportPiece;
  const int64_t g = int64_t{c.kv_heads} * c.head_dim, e = int64_t{c.heads} * c.head_dim;
  std::vector<P> pieces;
  for (const P& block : {P::repeat_slice(ours, 0, g, c.kv_heads, c.group()), P::repeat_slice(ours, g, g, c.kv_heads, c.group()),
                         P::slice(ours, 2 * g, e)}) {
    pieces.push_back(block);
    if (padding > 0) pieces.push_back(P::constant(padding * c.head_dim, 0));
  }
  return pieces;
}

// `ours` is the layer's prefix.
inline std::vector<ExportPiece> mamba2_in_proj(const ModelConfig& c, const std::string& ours, int64_t padding) {
  using P = ExportPiece;
  std::vector<P> pieces = {P::copy(ours + "in_proj_z.weight")};
  if (padding > 0) pieces.push_back(P::constant(padding * c.head_dim, 0));
  for (P& piece : mamba2_channels(c, ours + "in_proj.weight", padding)) pieces.push_back(std::move(piece));
  pieces.push_back(P::copy(ours + "dt_proj.weight"));
  if (padding > 0) pieces.push_back(P::constant(padding, 0));
  return pieces;
}

}  // namespace retort
