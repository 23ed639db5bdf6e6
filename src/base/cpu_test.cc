#include "base/cpu.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace retort {
namespace {

TEST(Cpu, EnvironmentForcesOneAndRefusesTheUnknown) {
  const char* old = std::getenv("RETORT_ISA");
  const std::string saved = old ? old : "";
  for (Isa isa : available_isas()) {
    setenv("RETORT_ISA", isa_name(isa), 1);
    auto chosen = isa_from_environment();
    ASSERT_TRUE(chosen.ok());
    EXPECT_EQ(*chosen, isa);
  }
  setenv("RETORT_ISA", "sse9", 1);
  auto wrong = isa_from_environment();
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, ErrorCode::kInvalidInput);
  EXPECT_NE(wrong.error().message.find("scalar"), std::string::npos);
  if (old) setenv("RETORT_ISA", saved.c_str(), 1);
  else unsetenv("RETORT_ISA");
}

}  // namespace
}  // namespace retort
