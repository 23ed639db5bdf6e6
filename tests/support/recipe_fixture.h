// A recipe that is right, to be made wrong: for tests of what a recipe's text means and of what is refused.
#pragma once

#include <gtest/gtest.h>

#include "train/recipe.h"

namespace retort::train {

class RecipeTest : public ::testing::Test {
 protected:
  inline static const std::string kGood = R"(name: align-kd
seed: 3
student: {mixer: slots, window: 64, sinks: 4, config: {slots: 128}, keep: heads:12}
data: {train: [a.jsonl, b.txt], held_out: 0.05}
defaults: {seq: 384, batch: 2, betas: [0.9, 0.98], minutes: 7}
stages:
- name: align
  loss: {attn_out: {form: relative}}
  minutes: 5
  lr: 6e-4
  lr_features: 5e-3
  schedule: {wsd: {warmup_steps: 10, decay: 0.4}}
- name: kd
  loss: {logits: {form: kl, temperature: 2}, ce: 0.1}
  train: [mixers, mlp]
  tokens: 1.5M
  lr: 3e-4
  schedule: cosine
  clip: 1
  logit_fraction: 0.25
)";

  static Recipe good(const std::vector<Override>& overrides = {}) {
    auto recipe = parse_recipe(kGood, "a.yaml", overrides);
    EXPECT_TRUE(recipe.ok()) << recipe.error().message;
    return *recipe;
  }

  // kGood with one text replaced; the error's message.
  static std::string error_of(const std::string& from, const std::string& to) {
    std::string text = kGood;
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const auto recipe = parse_recipe(text, "a.yaml");
    EXPECT_FALSE(recipe.ok()) << to;
    if (recipe.ok()) return "";
    EXPECT_EQ(recipe.error().code, ErrorCode::kInvalidInput);
    EXPECT_EQ(recipe.error().message.find('\n'), std::string::npos) << "one line";
    return recipe.error().message;
  }

  static void expect_has(const std::string& text, std::initializer_list<const char*> pieces) {
    for (const char* piece : pieces) EXPECT_NE(text.find(piece), std::string::npos) << "'" << piece << "' in: " << text;
  }
};

}  // namespace retort::train
