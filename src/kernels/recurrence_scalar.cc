#include "kernels/recurrence_backward_impl.h"
#include "kernels/simd_scalar.h"
#include "kernels/window_attention_impl.h"

namespace retort {
namespace {

using F32 = PlainMode<Scalar, float, 16, 1>;
using F64 = PlainMode<ScalarDouble, double, 8, 1>;
constexpr auto kRecurrence = recurrence_kernels<F32>();
constexpr auto kRecurrenceDouble = recurrence_kernels<F64>();
constexpr auto kWindow = window_kernels<F32>();
constexpr auto kWindowDouble = window_kernels<F64>();

}  // namespace

const RecurrenceKernels<float>& recurrence_scalar() { return kRecurrence; }
const RecurrenceKernels<double>& recurrence_double() { return kRecurrenceDouble; }
const WindowKernels<float>& window_attention_scalar() { return kWindow; }
const WindowKernels<double>& window_attention_double() { return kWindowDouble; }

}  // namespace retort
