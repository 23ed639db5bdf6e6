#include "kernels/recurrence_isa.h"

#if defined(__AMX_BF16__) || defined(__AMXBF16__)  // gcc, clang
#include "kernels/small_gemm_amx.h"

#include "kernels/recurrence_backward_impl.h"

namespace retort {
namespace {

using F32 = PlainMode<Avx512, float, 16, 4>;

void forward(const KernelRecurrence& spec, int kv_head, int64_t tokens, int64_t position, const RecurrenceTokens<float>& in, float* state,
             float* out, float* log_norm) {
  MatrixUnit unit;
  Recurrence<AmxMode>::forward(spec, kv_head, tokens, position, in, state, out, log_norm);
}
void backward(const KernelRecurrence& spec, int kv_head, int64_t tokens, const RecurrenceTokens<float>& in, const float* out,
              const float* d_out, const float* d_log_norm, const RecurrenceGradients<float>& grad) {
  MatrixUnit unit;
  RecurrenceBackward<AmxMode>::run(spec, kv_head, tokens, in, out, d_out, d_log_norm, grad);
}

constexpr RecurrenceKernels<float> kRecurrenceBf16 = {&Recurrence<F32>::step, &forward, &backward};

}  // namespace

const RecurrenceKernels<float>& recurrence_amx_bf16() { return kRecurrenceBf16; }

}  // namespace retort
#else
namespace retort {
const RecurrenceKernels<float>& recurrence_amx_bf16() { return recurrence_scalar(); }
}  // namespace retort
#endif
