// What recurrence_*.cc and window_attention_*.cc offer per instruction set. Layer: kernels. Thread-safe.
#pragma once

#include "kernels/recurrence.h"
#include "kernels/window_attention.h"

namespace retort {

template <class T>
struct RecurrenceKernels {
  void (*step)(const KernelRecurrence&, int, int64_t, const RecurrenceTokens<T>&, T*, T*, T*);
  void (*forward)(const KernelRecurrence&, int, int64_t, int64_t, const RecurrenceTokens<T>&, T*, T*, T*);
  void (*backward)(const KernelRecurrence&, int, int64_t, const RecurrenceTokens<T>&, const T*, const T*, const T*,
                   const RecurrenceGradients<T>&);
};

template <class T>
struct WindowKernels {
  void (*forward)(const KernelAttention&, int, int64_t, const T*, const T*, const T*, T*, T*);
  void (*backward)(const KernelAttention&, int, int64_t, const T*, const T*, const T*, const T*, const T*, const T*,
                   const T*, T*, T*, T*);
};

const RecurrenceKernels<double>& recurrence_double();
const RecurrenceKernels<float>& recurrence_scalar();
const RecurrenceKernels<float>& recurrence_avx2();
const RecurrenceKernels<float>& recurrence_neon();
const RecurrenceKernels<float>& recurrence_avx512();
const RecurrenceKernels<float>& recurrence_avx512_bf16();
const RecurrenceKernels<float>& recurrence_amx_bf16();

const WindowKernels<double>& window_attention_double();
const WindowKernels<float>& window_attention_scalar();
const WindowKernels<float>& window_attention_avx2();
const WindowKernels<float>& window_attention_neon();
const WindowKernels<float>& window_attention_avx512();
const WindowKernels<float>& window_attention_avx512_bf16();

}  // namespace retort
