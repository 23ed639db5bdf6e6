#include "train/functions.h"

#include <gtest/gtest.h>

#include "base/cpu.h"

namespace retort::train {
namespace {

// Whatever the processor multiplies, a product of bf16 is that of the numbers, summed in f32 and rounded once.
TEST(Product, OfBf16IsTheSameOnEveryInstructionSet) {
  torch::manual_seed(1);
  const Isa before = active_isa();
  for (const bool batched : {false, true}) {
    const at::Tensor a = torch::randn(batched ? std::vector<int64_t>{3, 40, 96} : std::vector<int64_t>{40, 96}).to(at::kBFloat16);
    const at::Tensor b = torch::randn(batched ? std::vector<int64_t>{3, 96, 56} : std::vector<int64_t>{96, 56}).to(at::kBFloat16);
    const at::Tensor want = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
    for (Isa isa : available_isas()) {
      set_active_isa(isa);
      const at::Tensor c = product(a, b), turned = product(b.transpose(-1, -2), a.transpose(-1, -2)).transpose(-1, -2);
      EXPECT_EQ(c.scalar_type(), at::kBFloat16);
      for (const at::Tensor& got : {c, turned}) {
        // Half a step of bf16's 8 bits, and what the order of 96 sums in f32 may add.
        EXPECT_LT(((got.to(at::kDouble) - want).abs() / (want.abs() + 1e-2)).max().item<double>(), 0x1p-8) << isa_name(isa);
      }
    }
  }
  set_active_isa(before);
}

}  // namespace
}  // namespace retort::train
