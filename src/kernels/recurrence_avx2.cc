#include "kernels/recurrence_isa.h"

#if defined(__AVX2__)
#include "kernels/recurrence_backward_impl.h"
#include "kernels/simd_avx2.h"
#include "kernels/window_attention_impl.h"

namespace retort {
namespace {

using F32 = PlainMode<Avx2, float, 16, 1>;
constexpr auto kRecurrence = recurrence_kernels<F32>();
constexpr auto kWindow = window_kernels<F32>();

}  // namespace

const RecurrenceKernels<float>& recurrence_avx2() { return kRecurrence; }
const WindowKernels<float>& window_attention_avx2() { return kWindow; }

}  // namespace retort
#else
namespace retort {
const RecurrenceKernels<float>& recurrence_avx2() { return recurrence_scalar(); }
const WindowKernels<float>& window_attention_avx2() { return window_attention_scalar(); }
}  // namespace retort
#endif
