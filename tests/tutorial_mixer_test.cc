// The mixer that docs/adding-a-mixer.md writes, cut out of the page by tests/CMakeLists.txt: it compiles, and running its
// equations on sizes finds the states that the page promises.
#include "tutorial_mixer.h"

#include <gtest/gtest.h>

#include "mixers/probe_ops.h"

namespace retort {

TEST(TutorialMixer, HasTheStatesOfItsEquations) {
  PartShape shape;
  shape.width = 48, shape.heads = 6, shape.kv_heads = 2, shape.head_dim = 8;
  for (int window : {0, 5}) {
    shape.window = {window, window ? 2 : 0};
    const auto table = part_tensor_table<GatedRetention>({}, shape);
    std::vector<ProbeOps::Weight> weights;
    for (const auto& spec : table) weights.emplace_back(&spec);
    ProbeOps ops(shape);
    const auto out = part_forward<GatedRetention>(ops, {}, shape, weights.data(), {shape.width});
    EXPECT_EQ(out.columns, shape.width);
    int64_t recurrence = 0;
    for (const auto& state : ops.states) {
      if (state.kind == StateSlot::Kind::kRecurrence) recurrence += state.numbers(1000);
    }
    EXPECT_EQ(recurrence, 2 * 8 * 8) << "one 8 x 8 state per kv head";
  }
}

TEST(TutorialMixer, ChecksItsFields) {
  EXPECT_TRUE(parse_config<GatedRetention>({{"retention", 0.9}}).ok());
  const auto wrong = parse_config<GatedRetention>({{"retantion", 0.9}});
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("it has: retention"), std::string::npos) << wrong.error().message;
}

}  // namespace retort
