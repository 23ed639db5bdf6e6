#include "kernels/recurrence_isa.h"

#if defined(__AVX512BF16__)
#include "kernels/recurrence_backward_impl.h"
#include "kernels/small_gemm_avx512.h"
#include "kernels/window_attention_impl.h"

namespace retort {
namespace {

using F32 = PlainMode<Avx512, float, 16, 4>;
constexpr auto kRecurrence = recurrence_kernels<F32>();
constexpr auto kWindow = window_kernels<F32>();
constexpr auto kWindowBf16 = window_kernels<Bf16Mode>();
// One token has no products to round.
constexpr RecurrenceKernels<float> kRecurrenceBf16 = {&Recurrence<F32>::step, &Recurrence<Bf16Mode>::forward,
                                                      &RecurrenceBackward<Bf16Mode>::run};

}  // namespace

const RecurrenceKernels<float>& recurrence_avx512() { return kRecurrence; }
const RecurrenceKernels<float>& recurrence_avx512_bf16() { return kRecurrenceBf16; }
const WindowKernels<float>& window_attention_avx512() { return kWindow; }
const WindowKernels<float>& window_attention_avx512_bf16() { return kWindowBf16; }

}  // namespace retort
#else
namespace retort {
const RecurrenceKernels<float>& recurrence_avx512() { return recurrence_scalar(); }
const RecurrenceKernels<float>& recurrence_avx512_bf16() { return recurrence_scalar(); }
const WindowKernels<float>& window_attention_avx512() { return window_attention_scalar(); }
const WindowKernels<float>& window_attention_avx512_bf16() { return window_attention_scalar(); }
}  // namespace retort
#endif
