// y = x W^T for packed weights: one kernel for decoding (a few tokens) and prefill (many), any format, any instruction set.
//
// Layer: kernels. Not thread-safe per Activations object; matmul() uses the pool itself.
//
// A token's result does not depend on the tokens beside it, on the number of threads or (kBf16Dot and prompts apart) on the
// instruction set: bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/cpu.h"
#include "base/threads.h"
#include "kernels/packed_matrix.h"

namespace retort {

struct TokenRange {
  int64_t begin = 0, end = 0;
};

// The inputs of one or more products, rounded once for all of them: signed bytes with a scale per 32 columns for quantised
// weights, bf16 where asked for. Buffers only grow, so a decoding loop allocates nothing. `x` must outlive its use.
class Activations {
 public:
  // Tokens of `prompts` (in order, apart) may take a form that pays off for many: bf16, for quantised weights on a matrix unit.
  void set(const float* x, int64_t tokens, int64_t columns, ptrdiff_t stride, std::span<const TokenRange> prompts = {});
  void set(const float* x, int64_t tokens, int64_t columns) { set(x, tokens, columns, columns); }
  int64_t tokens() const { return tokens_; }
  int64_t columns() const { return columns_; }

  // Called by matmul.
  enum class Form { kF32, kS8, kBf16, kBf16Tiles };
  // In turn stretches that are and are not prompts, of which the first may be empty; or all tokens as none.
  std::span<const TokenRange> stretches(bool prompts) const { return prompts ? stretches_ : std::span(&all_, 1); }
  static bool is_prompt(size_t stretch) { return stretch % 2 == 1; }
  void prepare(ThreadPool& pool, Form form, bool prompts, Isa isa);  // the tokens of prompts, or all others
  void describe(TileArgs& args, Form form, int64_t first_token) const;
  void describe_prompt(TileArgs& args, size_t stretch, int64_t first_token) const;

 private:
  void prepare_row(Form form, const MatmulTiles& tiles, size_t stretch, int64_t token);
  int64_t tile_row(size_t stretch, int64_t token) const;  // where it begins in bf16_tiles_

  const float* x_ = nullptr;  // [T, stride]
  int64_t tokens_ = 0, columns_ = 0;
  ptrdiff_t stride_ = 0, groups_ = 0, even_ = 0;
  TokenRange all_;
  std::vector<TokenRange> stretches_;
  bool ready_[4][2] = {};                // [form][prompts]
  std::vector<int8_t> q_;                // [T, 32 groups]
  std::vector<float> q_scale_, q_min_;   // [groups, T]
  std::vector<int32_t> q_sum8_;          // [groups, T, 2]
  std::vector<float> padded_;            // [T, even], only for odd columns
  std::vector<uint16_t> bf16_;           // [T, even]
  std::vector<uint16_t> bf16_tiles_;     // of each prompt [tiles, groups, 16 tokens, 32]
};

enum class Epilogue {
  kStore,      // y = x W^T (+ bias)
  kAdd,        // y += x W^T (+ bias): the residual
  kSiluPairs,  // W from interleave_rows(gate, up): y = silu(x G^T) * (x U^T)
};

struct MatmulJob {
  const PackedMatrix* w = nullptr;
  float* y = nullptr;             // [T, y_stride]
  ptrdiff_t y_stride = 0;
  const float* bias = nullptr;    // [rows], not with kSiluPairs
  Epilogue epilogue = Epilogue::kStore;
  int64_t outputs = 0;            // columns of y; 0: w's rows (half of them for kSiluPairs)
  bool bf16_activations = false;  // bf16 weights only: round x to bf16 and use the hardware's dot product
};

// All jobs share x and run as one parallel section.
void matmul(ThreadPool& pool, Activations& x, std::span<const MatmulJob> jobs, Isa isa = active_isa());
inline void matmul(ThreadPool& pool, Activations& x, const MatmulJob& job, Isa isa = active_isa()) {
  matmul(pool, x, std::span(&job, 1), isa);
}

}  // namespace retort
