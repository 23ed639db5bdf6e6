#include "base/cpu.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace retort {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// What the system lets this process use beyond the usual registers (ARCH_GET_XCOMP_PERM).
uint64_t permissions() {
  uint64_t mask = 0;
  return syscall(SYS_arch_prctl, 0x1022, &mask) == 0 ? mask : 0;
}

// Fails where it is the first to ask: ctest runs every test in a process of its own.
TEST(Cpu, AQuestionChangesNothing) {
  unsetenv("RETORT_ISA");  // a wish is more than a question
  const uint64_t before = permissions();
  ASSERT_TRUE(isa_from_environment().ok());
  for (Isa isa : available_isas()) EXPECT_TRUE(isa_available(isa));
  EXPECT_EQ(permissions(), before);
  constexpr uint64_t kTileData = uint64_t{1} << 18;
  if (!isa_available(Isa::kAmx)) GTEST_SKIP() << "no matrix unit";
  EXPECT_TRUE(enable_isa(Isa::kAmx));
  EXPECT_EQ(permissions() & kTileData, kTileData);
}
#endif

TEST(Cpu, EveryAvailableOneCanBeActive) {
  const Isa before = active_isa();
  for (Isa isa : available_isas()) {
    set_active_isa(isa);
    EXPECT_EQ(active_isa(), isa);
  }
  set_active_isa(before);
}

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

// The matrix unit's permission can be refused, such as where a thread's signal stack is too small for its registers.
TEST(Cpu, WhatTheSystemRefusesIsAnErrorWhereItWasAskedForByName) {
  const std::vector<Isa> have = {Isa::kScalar, Isa::kAvx512, Isa::kAmx};
  const auto refuses = [](Isa isa) { return isa != Isa::kAmx; };
  const auto refused = chosen_isa("amx", have, refuses);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidInput);
  EXPECT_EQ(refused.error().message.rfind("RETORT_ISA=amx: the system does not let this process use it", 0), 0u) << refused.error().message;
  EXPECT_EQ(*chosen_isa("avx512", have, refuses), Isa::kAvx512);
  EXPECT_EQ(*chosen_isa("amx", have, [](Isa) { return true; }), Isa::kAmx);
  EXPECT_EQ(*chosen_isa(nullptr, have, refuses), Isa::kAmx) << "the best by name; active_isa() takes the next one";
}

}  // namespace
}  // namespace retort
