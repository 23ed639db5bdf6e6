// The selective scan of S6 (mixers.md 3.11) on raw memory: every cell of the state has a decay of its own.
//
//   S_t[i, c] = exp(rate[i, c] step_t[c]) S_{t-1}[i, c] + k_t[i] v_t[c];   y_t = S_t^T q_t
//
// Layer: kernels. Thread-safe: every call touches one kv head (and the query heads that read it) of one sequence, so callers
// run kv heads and sequences in parallel.
//
// There is no form in matrix products: the work is tokens x K x V exponentials, taken for 16 channels at a time. Tokens go one
// after another, so any decay is exact. Backward computes the states again from those at the starts of chunks of 32 tokens:
// memory is linear in the number of tokens, and K V numbers per chunk.
#pragma once

#include <cstdint>

namespace retort {

struct KernelScan {
  int heads = 0;      // H
  int kv_heads = 0;   // G
  int key_dim = 0;    // K
  int value_dim = 0;  // V
  int64_t first_position = 0;  // tokens before it neither write nor decay; their output is 0

  int group() const { return heads / kv_heads; }
  // Numbers in the state of one kv head: S [K, V] row-major. A sequence's state is G of them.
  int64_t state_size() const { return int64_t(key_dim) * value_dim; }
};

// Rows of one sequence, contiguous; all kv heads.
template <class T>
struct ScanTokens {
  const T* q = nullptr;     // [T, H*K]
  const T* k = nullptr;     // [T, G*K]
  const T* v = nullptr;     // [T, G*V]
  const T* step = nullptr;  // [T, G*V], >= 0
};

// Backward writes every element of its heads' columns of the tokens' gradients, and adds to the rate's.
template <class T>
struct ScanGradients {
  T* q = nullptr;
  T* k = nullptr;
  T* v = nullptr;
  T* step = nullptr;
  T* rate = nullptr;  // [G*K, V]
};

// All pointers are to the sequence's first row; the functions find the kv head's columns, and its rows of rate [G*K, V], <= 0.
// `state` is the kv head's own block and is updated; null: start from zero and drop it. `position` is the index in the sequence
// of the first token. A decoding step is a sequence of one token, to the same bits. Without q and `out` only the state moves.
void selective_scan_forward(const KernelScan& spec, int kv_head, int64_t tokens, int64_t position, const ScanTokens<float>& in,
                            const float* rate, float* state, float* out);
// Of a whole sequence that started from an empty state at position 0.
void selective_scan_backward(const KernelScan& spec, int kv_head, int64_t tokens, const ScanTokens<float>& in, const float* rate,
                             const float* d_out, const ScanGradients<float>& gradients);

// The same text on doubles with plain loops: for tests.
void selective_scan_forward(const KernelScan& spec, int kv_head, int64_t tokens, int64_t position, const ScanTokens<double>& in,
                            const double* rate, double* state, double* out);
void selective_scan_backward(const KernelScan& spec, int kv_head, int64_t tokens, const ScanTokens<double>& in, const double* rate,
                             const double* d_out, const ScanGradients<double>& gradients);

// Per instruction set.
template <class T>
struct ScanKernels {
  void (*forward)(const KernelScan&, int, int64_t, int64_t, const ScanTokens<T>&, const T*, T*, T*);
  void (*backward)(const KernelScan&, int, int64_t, const ScanTokens<T>&, const T*, const T*, const ScanGradients<T>&);
};
const ScanKernels<double>& selective_scan_double();
const ScanKernels<float>& selective_scan_scalar();
const ScanKernels<float>& selective_scan_avx2();
const ScanKernels<float>& selective_scan_neon();
const ScanKernels<float>& selective_scan_avx512();

}  // namespace retort
