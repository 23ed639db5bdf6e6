#include "kernels/recurrence_isa.h"

#if defined(__ARM_NEON)
#include "kernels/recurrence_backward_impl.h"
#include "kernels/simd_neon.h"
#include "kernels/window_attention_impl.h"

namespace retort {
namespace {

using F32 = PlainMode<Neon, float, 16, 1>;
constexpr auto kRecurrence = recurrence_kernels<F32>();
constexpr auto kWindow = window_kernels<F32>();

}  // namespace

const RecurrenceKernels<float>& recurrence_neon() { return kRecurrence; }
const WindowKernels<float>& window_attention_neon() { return kWindow; }

}  // namespace retort
#else
namespace retort {
const RecurrenceKernels<float>& recurrence_neon() { return recurrence_scalar(); }
const WindowKernels<float>& window_attention_neon() { return window_attention_scalar(); }
}  // namespace retort
#endif
