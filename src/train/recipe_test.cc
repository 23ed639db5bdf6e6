// A recipe as a whole: its text, the flags that change it, and what is said of bad input.
#include <filesystem>

#include "support/recipe_fixture.h"
#include "test_files.h"

namespace retort::train {
namespace {

TEST_F(RecipeTest, ReadsEveryKind) {
  const Recipe r = good();
  EXPECT_EQ(r.seed, 3u);
  EXPECT_EQ(r.student.config["slots"], 128);
  EXPECT_EQ(r.student.keep.count, 12);
  ASSERT_EQ(r.stages.size(), 2u);
  const auto& align = r.stages[0];
  EXPECT_EQ(align.seq, 384);
  EXPECT_EQ(align.budget.minutes, 5);
  EXPECT_EQ(align.betas[1], 0.98);
  EXPECT_EQ(align.schedule.warmup_steps, 10);
  EXPECT_TRUE(align.layer_wise());
  const auto& kd = r.stages[1];
  EXPECT_EQ(kd.budget.tokens, 1500000);
  EXPECT_EQ(kd.budget.minutes, 0) << "a stage's own budget replaces the default one";
  EXPECT_EQ(kd.schedule.kind, ScheduleKind::kCosine);
  EXPECT_EQ(kd.find(LossKind::kLogits)->temperature, 2);
  EXPECT_EQ(kd.find(LossKind::kCe)->weight, 0.1);
  EXPECT_FALSE(kd.layer_wise());
}

TEST_F(RecipeTest, AKeyGivenTwiceIsRefused) {
  expect_has(error_of("  lr: 6e-4\n", "  lr: 6e-4\n  lr: 1e-4\n"), {"a.yaml:", "'lr' is given twice"});
  expect_has(error_of("ce: 0.1}", "ce: 0.1, ce: 0.2}"), {"'ce' is given twice"});
  expect_has(error_of("lr_features: 5e-3", "lr_features: 0"), {"'lr_features' is '0'"});
}

TEST_F(RecipeTest, ResolvedTextGivesTheSameRecipe) {
  const Recipe r = good();
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(r).dump(1));
}

TEST_F(RecipeTest, FlagsOverride) {
  const Recipe r = good({{"align.lr", "1e-3", "--set align.lr=1e-3"},
                         {"kd.loss.logits.temperature", "3", "--set ..."},
                         {"align.schedule.wsd.decay", "0.5", "--set ..."},
                         {"student.mixer", "gla", "--mixer gla"},
                         {"student.config", "{}", "--set ..."},
                         {"kd.steps", "20", "--set kd.steps=20"},
                         {"seed", "9", "--seed 9"}});
  EXPECT_EQ(r.stages[0].lr, 1e-3);
  EXPECT_EQ(r.stages[0].schedule.decay, 0.5);
  EXPECT_EQ(r.stages[1].find(LossKind::kLogits)->temperature, 3);
  EXPECT_EQ(r.stages[1].budget.steps, 20);
  EXPECT_EQ(r.stages[1].budget.tokens, 0) << "a budget from a flag replaces the recipe's";
  EXPECT_EQ(r.student.mixer, "gla");
  EXPECT_EQ(r.seed, 9u);
}

TEST_F(RecipeTest, FlagErrorsNameTheFlag) {
  const auto wrong = [](const char* key, const char* value) {
    const auto r = parse_recipe(kGood, "a.yaml", {{key, value, cat("--set ", key, "=", value)}});
    return r.ok() ? std::string() : r.error().message;
  };
  expect_has(wrong("align.lr", "fast"), {"--set align.lr=fast", "'lr' is 'fast'", "number"});
  expect_has(wrong("alinge.lr", "1"), {"unknown stage 'alinge'", "align"});
  expect_has(wrong("align.lrate", "1"), {"--set align.lrate=1", "unknown key 'lrate'"});
  expect_has(wrong("align.name.x", "1"), {"--set align.name.x=1"});
  expect_has(wrong("student.mixer", "mambo"), {"unknown mixer 'mambo'; did you mean 'mamba'? known: attention, window, slots", "rwkv7"});
  expect_has(wrong("student.mixer", "transformer"), {"unknown mixer 'transformer'; known: attention, window, slots"});
  expect_has(wrong("student.config.slots", "0"), {"--set student.config.slots=0: student: mixer 'slots': field 'slots' is 0"});
  expect_has(wrong("student.config.cells", "3"), {"--set student.config.cells=3: student: mixer 'slots' has no field 'cells'"});
  expect_has(wrong("student.config.slots", "1.5"), {"field 'slots' is 1.5; expected a whole number"});
  expect_has(wrong("student.config.slots", "[1]"), {"--set student.config.slots=[1]: student: the fields in 'config' must be numbers"});
  expect_has(wrong("student.sinks", "4097"), {"'sinks' is '4097'; expected a whole number from 0 to 4096"});
  expect_has(wrong("align..lr", "1"), {"--set align..lr=1", "stage.key=value"});
}

TEST_F(RecipeTest, BadInputIsOneLineWithFileAndLine) {
  expect_has(error_of("seed: 3", "sede: 3"), {"a.yaml:2", "unknown key 'sede'", "seed"});
  expect_has(error_of("seed: 3", "seed: three"), {"a.yaml:2", "'seed' is 'three'"});
  expect_has(error_of("mixer: slots", "mixer: slot"), {"a.yaml:3", "unknown mixer 'slot'", "slots"});
  expect_has(error_of("slots: 128", "cells: 128"), {"a.yaml:3", "slots", "cells"});
  expect_has(error_of("slots: 128", "slots: 0"), {"a.yaml:3", "slots", "0"});
  expect_has(error_of("keep: heads:12", "keep: some"), {"a.yaml:3", "keep is 'some'", "heads:12"});
  expect_has(error_of("attn_out: {", "attn_in: {"), {"a.yaml:8", "unknown loss 'attn_in'", "attn_out"});
  expect_has(error_of("form: relative", "form: kl"), {"a.yaml:8", "'kl'", "relative"});
  expect_has(error_of("lr: 6e-4", "lr: [1]"), {"a.yaml:10", "'lr' must be a number"});
  expect_has(error_of("lr: 6e-4", "lr: -1"), {"a.yaml:10", "'-1'"});
  expect_has(error_of("wsd:", "wds:"), {"a.yaml:12", "unknown schedule 'wds'", "wsd"});
  expect_has(error_of("decay: 0.4", "decay: 0.4, decay_steps: 3"), {"a.yaml:12", "not both"});
  expect_has(error_of("tokens: 1.5M", "tokens: 1.5"), {"a.yaml:16", "'tokens' is '1.5'", "1.5M"});
  expect_has(error_of("  tokens: 1.5M\n", "  accumulate: 2\n  minutes: -1\n"), {"a.yaml:17", "minutes"});
  expect_has(error_of("name: kd", "name: align"), {"a.yaml:13", "two stages are called 'align'"});
  expect_has(error_of("{logits: {form: kl, temperature: 2}, ce: 0.1}", "{logits: 1, hidden: 1}"), {"a.yaml:14", "cannot share a stage"});
  expect_has(error_of("  loss: {attn_out: {form: relative}}\n", ""), {"a.yaml:7", "needs 'loss'"});
  expect_has(error_of("stages:", "stage:"), {"a.yaml:6", "unknown key 'stage'"});
  expect_has(error_of("student: {", "student: {{"), {"a.yaml:", "not YAML"});
  EXPECT_FALSE(parse_recipe("- 1\n- 2\n", "a.yaml").ok());
  EXPECT_FALSE(parse_recipe("", "a.yaml").ok());
  EXPECT_FALSE(parse_recipe(std::string("\x00\x01\xff\xfe", 4), "a.yaml").ok());
}

TEST_F(RecipeTest, ThoseThatComeAlongAreRead) {
  int read = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(test::source_root() / "recipes")) {
    const std::string path = entry.path().string();
    if (entry.path().extension() != ".yaml" || test::read_file(path).find("\nstages:") == std::string::npos) continue;   // others are plans
    const auto recipe = load_recipe(path);
    EXPECT_TRUE(recipe.ok()) << recipe.error().message;
    ++read;
  }
  EXPECT_GT(read, 12);
}

TEST_F(RecipeTest, CountsHaveBounds) {
  expect_has(error_of("held_out: 0.05", "calibration_tokens: 2e12"), {"a.yaml:4", "'calibration_tokens' is '2e12'", "from 256 to 1000000"});
  expect_has(error_of("held_out: 0.05", "calibration_tokens: 3B"), {"a.yaml:4", "from 256 to 1000000"});
  expect_has(error_of("tokens: 1.5M", "steps: 0"), {"a.yaml:16", "'steps' is '0'", "at least 1"});
  expect_has(error_of("  minutes: 5", "  minutes: 0"), {"a.yaml:9", "'minutes' is '0'"});
}

}  // namespace
}  // namespace retort::train
