// State files that somebody forged, checksum and all: refused, or a state that the model runs from without harm.
#include "runtime/state_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/hash.h"
#include "runtime/session.h"
#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::NamedPlan;
using testing_support::plans_of_every_mixer;
using testing_support::tiny_files;

ThreadPool& pool() {
  static ThreadPool pool(1);
  return pool;
}

// As state_file.cc sums: words of eight bytes, the last one filled with zeros.
void sign(std::string& bytes) {
  uint64_t hash = kFnvStart;
  for (size_t at = 0; at <= bytes.size() - 8; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<size_t>(8, bytes.size() - 8 - at));
    hash = fnv1a_unit(word, hash);
    hash ^= hash >> 29;
  }
  std::memcpy(bytes.data() + bytes.size() - 8, &hash, 8);
}

class ForgedState : public testing::TestWithParam<NamedPlan> {
 protected:
  const std::shared_ptr<const Model> model_ = *Model::load(tiny_files(GetParam().plan), WeightFormat::kF32, pool());
  const std::string path_ = testing::TempDir() + "retort_forged_" + GetParam().name + ".state";
  void TearDown() override { std::filesystem::remove(path_); }

  std::string honest_bytes(Engine& engine) {
    Session session(engine);
    for (int i = 0; i < 20; ++i) session.commit(i * 7 % 96);
    EXPECT_TRUE(session.consume().ok());
    EXPECT_TRUE(session.save(path_).ok());
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  Result<SavedState> read(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc).write(bytes.data(), std::streamsize(bytes.size()));
    return read_state_file(path_, model_->identity(), model_->layout());
  }
};

TEST_P(ForgedState, IsRefusedOrRuns) {
  Engine engine(model_, pool());
  const std::string honest = honest_bytes(engine);
  std::string same = honest;
  sign(same);
  ASSERT_EQ(same, honest) << "the checksum of this test is not the file's";
  const size_t header = 16 + model_->identity().size();
  Random random(9);
  int refused = 0, ran = 0;
  for (int i = 0; i < 300; ++i) {
    std::string forged = honest;
    if (i % 2) {  // a count of the header
      const uint64_t values[] = {0, 1, 19, 21, random.next(), std::numeric_limits<uint64_t>::max(), uint64_t(1) << 62, random.next() % 100};
      std::memcpy(forged.data() + header + 8 * (random.next() % 4), &values[random.next() % 8], 8);
    } else {
      for (int b = 0; b < 40; ++b) forged[header + 32 + random.next() % (forged.size() - header - 40)] = char(random.next());
    }
    if (i % 5 == 0) forged.resize(header + 40 + random.next() % (forged.size() - header - 40));
    sign(forged);
    auto state = read(forged);
    if (!state.ok()) {
      ++refused;
      EXPECT_EQ(state.error().code, ErrorCode::kInvalidInput);
      continue;
    }
    ++ran;
    EXPECT_LE(state->sequence.position(), int64_t(state->tokens.size()));
    const std::vector<int> tokens{1, 2, 3};
    const BatchItem item{&state->sequence, tokens, WantLogits::kLast};
    EXPECT_TRUE(engine.forward({&item, 1}, [](const LogitsRows&) {}).ok());
  }
  EXPECT_GT(refused, 30);
  EXPECT_GT(ran, 30);
}

std::vector<NamedPlan> some_plans() {
  std::vector<NamedPlan> plans;
  for (const auto& plan : plans_of_every_mixer()) {
    for (const char* name : {"attention", "gla_window_beside_attention", "mamba2", "slots_window"}) {
      if (plan.name == name) plans.push_back(plan);
    }
  }
  return plans;
}
INSTANTIATE_TEST_SUITE_P(Mixers, ForgedState, testing::ValuesIn(some_plans()), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace retort
