#include "kernels/selective_scan.h"

#include "base/cpu.h"

namespace retort {
namespace {

const ScanKernels<float>& kernels() {
  switch (active_isa()) {
    case Isa::kScalar: break;
    case Isa::kAvx2: return selective_scan_avx2();
    case Isa::kNeon:
    case Isa::kNeonDot: return selective_scan_neon();
    case Isa::kAmx:
    case Isa::kAvx512: return selective_scan_avx512();
  }
  return selective_scan_scalar();
}

}  // namespace

void selective_scan_forward(const KernelScan& spec, int kv_head, int64_t tokens, int64_t position, const ScanTokens<float>& in,
                            const float* rate, float* state, float* out) {
  kernels().forward(spec, kv_head, tokens, position, in, rate, state, out);
}

void selective_scan_backward(const KernelScan& spec, int kv_head, int64_t tokens, const ScanTokens<float>& in, const float* rate,
                             const float* d_out, const ScanGradients<float>& gradients) {
  kernels().backward(spec, kv_head, tokens, in, rate, d_out, gradients);
}

void selective_scan_forward(const KernelScan& spec, int kv_head, int64_t tokens, int64_t position, const ScanTokens<double>& in,
                            const double* rate, double* state, double* out) {
  selective_scan_double().forward(spec, kv_head, tokens, position, in, rate, state, out);
}

void selective_scan_backward(const KernelScan& spec, int kv_head, int64_t tokens, const ScanTokens<double>& in, const double* rate,
                             const double* d_out, const ScanGradients<double>& gradients) {
  selective_scan_double().backward(spec, kv_head, tokens, in, rate, d_out, gradients);
}

}  // namespace retort
