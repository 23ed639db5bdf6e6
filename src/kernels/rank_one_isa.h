// What rank_one_*.cc offer per instruction set. Layer: kernels. Thread-safe.
#pragma once

#include "kernels/rank_one.h"

namespace retort {

template <class T>
struct RankOneKernels {
  void (*step)(const KernelRankOne&, int, int64_t, const RankOneTokens<T>&, T*, T*);
  void (*forward)(const KernelRankOne&, int, int64_t, int64_t, const RankOneTokens<T>&, T*, T*);
  void (*backward)(const KernelRankOne&, int, int64_t, const RankOneTokens<T>&, const T*, const RankOneGradients<T>&);
};

const RankOneKernels<double>& rank_one_double();
const RankOneKernels<float>& rank_one_scalar();
const RankOneKernels<float>& rank_one_avx2();
const RankOneKernels<float>& rank_one_neon();
const RankOneKernels<float>& rank_one_avx512();
const RankOneKernels<float>& rank_one_avx512_bf16();
const RankOneKernels<float>& rank_one_amx_bf16();

}  // namespace retort
