// Tests here give kernels an instruction set by hand: whatever this machine has is enabled before the first of them.
#include <gtest/gtest.h>

#include "base/cpu.h"

namespace retort {
namespace {

class EnableIsas : public testing::Environment {
  void SetUp() override {
    for (Isa isa : available_isas()) ASSERT_TRUE(enable_isa(isa)) << isa_name(isa);
  }
};
[[maybe_unused]] const testing::Environment* const enabled = testing::AddGlobalTestEnvironment(new EnableIsas);

}  // namespace
}  // namespace retort
