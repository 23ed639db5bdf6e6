// What a recipe says of its stages: losses, budgets, texts, teachers, what trains.
#include <tuple>

#include "support/recipe_fixture.h"

namespace retort::train {
namespace {

const std::string kChats = R"(name: chats
data: {train: [a.jsonl, {file: b.jsonl, weight: 3}, {file: c.jsonl}]}
stages:
- {name: sft, loss: {ce: 1, logits: {mask: labels}}, steps: 9, lr: 1e-5}
- {name: pack, loss: {ce: {mask: all}, logits: 0.1}, steps: 9, lr: 1e-5}
- {name: dpo, loss: {dpo: {beta: 0.01, reference: start}}, steps: 9, lr: 1e-6, seq: 100, batch: 4, max_prompt: 40}
)";

TEST_F(RecipeTest, ChatsAndPairs) {
  const auto r = parse_recipe(kChats, "a.yaml");
  ASSERT_TRUE(r.ok()) << r.error().message;
  ASSERT_EQ(r->data.train.size(), 3u);
  EXPECT_EQ(r->data.train[1].file, "b.jsonl");
  EXPECT_EQ(weights_of(r->data.train), (std::vector<double>{1, 3, 1}));
  EXPECT_TRUE(weights_of(good().data.train).empty()) << "none is given";
  EXPECT_EQ(r->stages[0].find(LossKind::kCe)->mask, LossMask::kLabels);
  EXPECT_EQ(r->stages[0].find(LossKind::kLogits)->mask, LossMask::kLabels);
  EXPECT_EQ(r->stages[1].find(LossKind::kCe)->mask, LossMask::kAll);
  EXPECT_EQ(r->stages[1].find(LossKind::kLogits)->mask, LossMask::kAll);
  EXPECT_EQ(r->stages[2].find(LossKind::kDpo)->beta, 0.01);
  EXPECT_EQ(r->stages[2].find(LossKind::kDpo)->reference, Reference::kStart);
  EXPECT_EQ(r->stages[2].max_prompt, 40);
  EXPECT_FALSE(r->stages[2].layer_wise());
  EXPECT_EQ(r->stages[2].tokens_per_step(), 2 * 4 * 100);
  const auto again = parse_recipe(resolved_yaml(*r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(*r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(*r).dump(1));
  const auto defaults = parse_recipe(R"({name: a, stages: [{name: dpo, loss: dpo, steps: 1, lr: 1}]})", "a.yaml");
  ASSERT_TRUE(defaults.ok()) << defaults.error().message;
  EXPECT_EQ(defaults->stages[0].find(LossKind::kDpo)->reference, Reference::kTeacher);
  EXPECT_EQ(defaults->stages[0].find(LossKind::kDpo)->beta, 0.1);
}

TEST_F(RecipeTest, ChatErrorsSayWhatIsWrong) {
  const auto wrong = [](const char* key, const char* value) {
    const auto r = parse_recipe(kChats, "a.yaml", {{key, value, cat("--set ", key, "=", value)}});
    EXPECT_FALSE(r.ok()) << key << "=" << value;
    return r.ok() ? std::string() : r.error().message;
  };
  expect_has(wrong("dpo.loss", "{dpo: 1, ce: 1}"), {"dpo reads pairs of answers", "make two"});
  expect_has(wrong("dpo.loss.dpo.reference", "techer"), {"unknown reference 'techer'; did you mean 'teacher'"});
  expect_has(wrong("dpo.loss.dpo.beta", "0"), {"'beta' is '0'"});
  expect_has(wrong("dpo.loss.dpo.form", "kl"), {"unknown key 'form'"});
  expect_has(wrong("dpo.max_prompt", "100"), {"'max_prompt' is 100; it must be below 'seq', 100"});
  expect_has(wrong("dpo.repeat_every", "3"), {"'repeat_every' is for text"});
  expect_has(wrong("dpo.logit_fraction", "0.5"), {"'logit_fraction' must be 1"});
  expect_has(wrong("sft.max_prompt", "5"), {"stage 'sft' has no dpo"});
  expect_has(wrong("sft.loss.ce", "{mask: some}"), {"unknown mask 'some'"});
  expect_has(wrong("sft.loss", "{attn_out: {mask: all}}"), {"unknown key 'mask'"});
  expect_has(wrong("data.train", "[{weight: 3}]"), {"needs 'file'"});
  expect_has(wrong("data.train", "[{file: a, weight: 0}]"), {"'weight' is '0'"});
  expect_has(wrong("data.train", "[{file: a, share: 1}]"), {"unknown key 'share'"});
  expect_has(wrong("data.train", "[[a]]"), {"text is a file, {file: a.jsonl, weight: 3}, or a list of these"});
}

const std::string kParts = R"(name: parts
data: {train: [a.jsonl]}
defaults: {data: chats.jsonl, epochs: 2, lr: 1e-4}
stages:
- {name: align, loss: hidden, data: {train: [b.jsonl, {file: c.jsonl, weight: 3}]}, schedule: {plateau: {patience: 3, min_lr: 1e-5}}}
- {name: kd, loss: logits, steps: 900, switch_teacher: {to: big, when: {step: 400}}, schedule: {plateau: {every: 7, factor: 0.5, threshold: 0.01}}}
- {name: cached, loss: {logits: {cache: logits, top_k: 16}}, epochs: 0.5, tokens: 2M, data: [d.jsonl]}
- {name: late, loss: logits, minutes: 3, data: {file: e.jsonl, weight: 2}, switch_teacher: {to: big, when: plateau}}
)";

TEST_F(RecipeTest, TextBudgetsAndTeachersOfStages) {
  const auto r = parse_recipe(kParts, "a.yaml");
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->stages[0].data, (std::vector<DataSource>{{"b.jsonl"}, {"c.jsonl", 3}}));
  EXPECT_EQ(r->stages[1].data, (std::vector<DataSource>{{"chats.jsonl"}})) << "of defaults";
  EXPECT_EQ(r->stages[2].data, (std::vector<DataSource>{{"d.jsonl"}}));
  EXPECT_EQ(r->stages[3].data, (std::vector<DataSource>{{"e.jsonl", 2}}));
  EXPECT_EQ(r->data.train, (std::vector<DataSource>{{"a.jsonl"}}));
  EXPECT_EQ(r->stages[0].budget.epochs, 2);
  EXPECT_EQ(r->stages[1].budget.epochs, 0) << "a stage's own budget replaces the default one";
  EXPECT_EQ(r->stages[2].budget.epochs, 0.5);
  EXPECT_EQ(r->stages[2].budget.tokens, 2'000'000);
  const ScheduleSpec& plateau = r->stages[0].schedule;
  EXPECT_EQ(plateau.kind, ScheduleKind::kPlateau);
  EXPECT_EQ(std::tuple(plateau.factor, plateau.min_lr, plateau.plateau.every, plateau.plateau.patience, plateau.plateau.threshold), std::tuple(0.1, 1e-5, 100, 3, 1e-4));
  EXPECT_EQ(r->stages[1].schedule.plateau.every, 7);
  EXPECT_EQ(r->stages[1].switch_teacher.to, "big");
  EXPECT_EQ(r->stages[1].switch_teacher.step, 400);
  EXPECT_EQ(r->stages[3].switch_teacher.when, SwitchSpec::When::kPlateau);
  EXPECT_EQ(r->stages[2].find(LossKind::kLogits)->cache, "logits");
  EXPECT_EQ(r->stages[2].find(LossKind::kLogits)->top_k, 16);
  const auto again = parse_recipe(resolved_yaml(*r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(*r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(*r).dump(1));
  const auto changed = parse_recipe(kParts, "a.yaml", {{"cached.steps", "5", "--set"}, {"kd.data", "[x.txt, y.txt]", "--set"}});
  ASSERT_TRUE(changed.ok()) << changed.error().message;
  EXPECT_EQ(changed->stages[2].budget.epochs, 0) << "a flag's budget is the only one";
  EXPECT_EQ(changed->stages[1].data.size(), 2u);
}

TEST_F(RecipeTest, ErrorsAboutTextBudgetsAndTeachersOfStages) {
  const auto wrong = [](const char* key, const char* value) {
    const auto r = parse_recipe(kParts, "a.yaml", {{key, value, cat("--set ", key, "=", value)}});
    EXPECT_FALSE(r.ok()) << key << "=" << value;
    const std::string message = r.ok() ? "" : r.error().message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  };
  expect_has(wrong("kd.data", "[]"), {"--set kd.data=[]", "names no text"});
  expect_has(wrong("kd.data", "{train: [a], held_out: 0.1}"), {"unknown key 'held_out'"});
  expect_has(wrong("kd.data", "[{weight: 2}]"), {"an entry needs 'file'"});
  expect_has(wrong("kd.data", "[[a]]"), {"text is a file"});
  expect_has(wrong("align.epochs", "0"), {"'epochs' is '0'"});
  expect_has(wrong("align.schedule", "{plateau: {factor: 1}}"), {"'factor' is '1'"});
  expect_has(wrong("align.schedule", "{plateau: {every: 0}}"), {"'every' is '0'"});
  expect_has(wrong("align.schedule", "{cosine: {patience: 3}}"), {"unknown key 'patience'"});
  expect_has(wrong("align.switch_teacher", "{to: big}"), {"is for 'logits': stage 'align' compares layers"});
  expect_has(wrong("kd.loss", "ce"), {"is for 'logits', which stage 'kd' has not"});
  expect_has(wrong("kd.switch_teacher", "{when: plateau}"), {"needs 'to'"});
  expect_has(wrong("kd.switch_teacher", "{to: big, when: soon}"), {"'when' must be plateau"});
  expect_has(wrong("kd.switch_teacher", "{to: big, when: {step: 900}}"), {"due after 900 steps; stage 'kd' has 900 steps in all"});
  expect_has(wrong("kd.switch_teacher", "{to: big, when: {fraction: 2}}"), {"'fraction' is '2'"});
  expect_has(wrong("cached.switch_teacher", "{to: big}"), {"exclude each other"});
  expect_has(wrong("kd.loss", "{logits: {top_k: 3}}"), {"'top_k' is how many logits of a position 'cache' holds"});
  expect_has(wrong("cached.loss.logits.top_k", "0"), {"'top_k' is '0'"});
  expect_has(wrong("kd.loss", "{ce: {cache: a}}"), {"unknown key 'cache'"});
}

TEST_F(RecipeTest, LayerWiseLosses) {
  const Recipe r = good({{"align.loss", "{matrix: {form: mse, weight: 2}, attn_xent: 0.5, attn_out: {at: heads, form: mse, weight: 1000}, hidden: {gap: 3}}", "--set ..."}});
  const StageSpec& stage = r.stages[0];
  ASSERT_EQ(stage.losses.size(), 4u);
  EXPECT_TRUE(stage.layer_wise());
  EXPECT_EQ(stage.find(LossKind::kMatrix)->form, LossForm::kMse);
  EXPECT_EQ(stage.find(LossKind::kMatrix)->weight, 2);
  EXPECT_EQ(stage.find(LossKind::kAttnXent)->weight, 0.5);
  EXPECT_TRUE(stage.find(LossKind::kAttnOut)->at_heads);
  EXPECT_EQ(stage.find(LossKind::kHidden)->gap, 3);
  EXPECT_EQ(stage.find(LossKind::kHidden)->form, LossForm::kL2);
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(r).dump(1));
  EXPECT_EQ(good({{"align.loss", "matrix", "--set ..."}}).stages[0].losses[0].form, LossForm::kFrobenius);
  EXPECT_FALSE(good().stages[0].losses[0].at_heads);
  const std::string from = "{attn_out: {form: relative}}";
  expect_has(error_of(from, "{matrix: {form: l2}}"), {"a.yaml:8", "'l2'"});
  expect_has(error_of(from, "{matrix: {gap: 2}}"), {"a.yaml:8", "unknown key 'gap'"});
  expect_has(error_of(from, "{attn_xent: {form: mse}}"), {"a.yaml:8", "unknown key 'form'"});
  expect_has(error_of(from, "{attn_out: {at: head}}"), {"a.yaml:8", "unknown place 'head'", "heads"});
  expect_has(error_of(from, "{hidden: {gap: 0}}"), {"a.yaml:8", "'gap' is '0'"});
  expect_has(error_of(from, "{matrix: 1, ce: 1}"), {"a.yaml:8", "matrix and attn_xent", "cannot share a stage"});
}

TEST_F(RecipeTest, AWarmUpFitsItsStage) {
  const auto wrong = [](const char* key, const char* value) {
    const auto r = parse_recipe(kGood, "a.yaml", {{key, value, cat("--set ", key, "=", value)}});
    return r.ok() ? std::string() : r.error().message;
  };
  expect_has(wrong("align.steps", "9"), {"a.yaml:12", "'warmup_steps' is 10", "'align' has 9 steps in all"});
  expect_has(wrong("align.schedule", "{cosine: {min_lr: 0.5}}"), {"'min_lr' is '0.5'; expected a number from 0 to 0.0006"});
  expect_has(wrong("align.tokens", "1000"), {"a.yaml:12", "'warmup_steps' is 10", "'align' has 1 step in all"});
  EXPECT_EQ(wrong("align.steps", "10"), "");
  EXPECT_EQ(wrong("align.minutes", "0.001"), "") << "how many steps that is, the clock will say";
}

TEST_F(RecipeTest, WhatAStageHasNoUseForIsRefused) {
  const auto wrong = [](const char* key, const char* value) {
    const auto r = parse_recipe(kGood, "a.yaml", {{key, value, cat("--set ", key, "=", value)}});
    return r.ok() ? std::string() : r.error().message;
  };
  expect_has(wrong("align.logit_fraction", "0.5"), {"--set align.logit_fraction=0.5: 'logit_fraction' is for stages that run end to end (logits, ce)",
                                                    "stage 'align' compares layers, which has no logits: remove it there"});
  const auto shared = parse_recipe(kGood, "a.yaml", {{"defaults.logit_fraction", "0.5", "--set"}, {"defaults.checkpoint_activations", "true", "--set"}});
  ASSERT_TRUE(shared.ok()) << shared.error().message;
  EXPECT_EQ(shared->stages[0].logit_fraction, 1) << "for those that can use it";
  EXPECT_FALSE(shared->stages[0].checkpoint_activations);
  EXPECT_EQ(shared->stages.back().logit_fraction, 0.25) << "its own";
  EXPECT_TRUE(shared->stages.back().checkpoint_activations);
  expect_has(wrong("align.checkpoint_activations", "true"), {"'checkpoint_activations' is for stages that run end to end", "keeps one layer's graph anyway"});
  EXPECT_EQ(wrong("align.logit_fraction", "1"), "") << "what a resolved recipe says";
  EXPECT_EQ(wrong("align.checkpoint_activations", "false"), "");
  EXPECT_EQ(wrong("kd.loss", "ce"), "") << "positions of ce are a sample too";
  EXPECT_EQ(wrong("kd.checkpoint_activations", "true"), "");
}

TEST_F(RecipeTest, StageWithoutABudget) {
  const auto recipe = parse_recipe("name: a\nstages:\n- {name: x, loss: ce, lr: 1}\n", "a.yaml");
  ASSERT_FALSE(recipe.ok());
  expect_has(recipe.error().message, {"a.yaml:3", "needs a budget"});
}

TEST_F(RecipeTest, Lora) {
  const auto with = [](const char* train) { return parse_recipe(kGood, "a.yaml", {{"kd.train", train, "--set kd.train"}}); };
  const auto alone = with("{lora: {r: 4, alpha: 12, on: [q, up]}}"), beside = with("[features, {lora: {on: '*.v_proj.weight'}}, norms]");
  ASSERT_TRUE(alone.ok()) << alone.error().message;
  ASSERT_TRUE(beside.ok()) << beside.error().message;
  const StageSpec &a = alone->stages[1], &b = beside->stages[1];
  EXPECT_TRUE(a.train.empty());
  EXPECT_EQ(a.lora.r, 4);
  EXPECT_EQ(a.lora.alpha, 12);
  EXPECT_EQ(a.lora.on, (std::vector<std::string>{"q", "up"}));
  EXPECT_EQ(b.train, (std::vector<std::string>{"features", "norms"}));
  EXPECT_EQ(b.lora.r, 8);
  EXPECT_EQ(b.lora.alpha, 16);
  EXPECT_EQ(b.lora.on, (std::vector<std::string>{"*.v_proj.weight"}));
  EXPECT_EQ(with("{lora: {}}")->stages[1].lora.on, (std::vector<std::string>{"q", "k", "v", "o"}));
  for (const auto& r : {alone, beside}) {
    const auto again = parse_recipe(resolved_yaml(*r), "resolved.yaml");
    ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(*r);
    EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(*r).dump(1));
  }
  expect_has(with("{lora: {rank: 4}}").error().message, {"--set kd.train", "unknown key 'rank'"});
  expect_has(with("{lora: {r: 0}}").error().message, {"'r' is '0'"});
  expect_has(with("{lora: {on: []}}").error().message, {"'on' names nothing"});
  expect_has(with("{loras: {r: 4}}").error().message, {"unknown key 'loras'", "lora"});
  expect_has(with("[{lora: {r: 4}}, {lora: {r: 2}}]").error().message, {"'train' has two entries that are no names"});
  expect_has(with("[]").error().message, {"'train' names nothing"});
}

TEST_F(RecipeTest, WhatTrains) {
  StageSpec stage;
  const std::string q = "model.layers.0.mixer.q_proj.weight", parts = "model.layers.0.mixer.parts.1.write.weight";
  EXPECT_TRUE(trains(stage, q, TrainGroup::kProjection));
  EXPECT_TRUE(trains(stage, parts, TrainGroup::kFeature));
  EXPECT_FALSE(trains(stage, "model.layers.0.self_attn.q_proj.weight", TrainGroup::kProjection));
  EXPECT_FALSE(trains(stage, "model.layers.0.mlp.up_proj.weight", TrainGroup::kProjection));
  stage.train = {"features", "norms"};
  EXPECT_FALSE(trains(stage, q, TrainGroup::kProjection));
  EXPECT_TRUE(trains(stage, parts, TrainGroup::kFeature));
  EXPECT_TRUE(trains(stage, "model.norm.weight", TrainGroup::kProjection));
  stage.train = {"*.3.*"};
  EXPECT_TRUE(trains(stage, "model.layers.3.mlp.up_proj.weight", TrainGroup::kProjection));
  EXPECT_FALSE(trains(stage, q, TrainGroup::kProjection));
}

}  // namespace
}  // namespace retort::train
