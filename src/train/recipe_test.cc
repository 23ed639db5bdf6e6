#include "train/recipe.h"

#include <tuple>

#include <gtest/gtest.h>

#include "test_files.h"

namespace retort::train {
namespace {

const std::string kGood = R"(name: align-kd
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

Recipe good(const std::vector<Override>& overrides = {}) {
  auto recipe = parse_recipe(kGood, "a.yaml", overrides);
  EXPECT_TRUE(recipe.ok()) << recipe.error().message;
  return *recipe;
}

// kGood with one text replaced; the error's message.
std::string error_of(const std::string& from, const std::string& to) {
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

void expect_has(const std::string& text, std::initializer_list<const char*> pieces) {
  for (const char* piece : pieces) EXPECT_NE(text.find(piece), std::string::npos) << "'" << piece << "' in: " << text;
}

TEST(Recipe, ReadsEveryKind) {
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

// Another mixer starts from its own defaults, the same one keeps what the recipe says.
TEST(Recipe, FieldsGoWithTheirMixer) {
  EXPECT_TRUE(good({{"student.mixer", "gla", "--mixer gla"}}).student.config.empty());
  EXPECT_EQ(good({{"student.mixer", "slots", "--mixer slots"}}).student.config["slots"], 128);
  EXPECT_EQ(good({{"student.mixer", "gla", "--mixer gla"}, {"student.config.gate_rank", "8", "--set"}}).student.config["gate_rank"], 8);
}

TEST(Recipe, AKeyGivenTwiceIsRefused) {
  expect_has(error_of("  lr: 6e-4\n", "  lr: 6e-4\n  lr: 1e-4\n"), {"a.yaml:", "'lr' is given twice"});
  expect_has(error_of("ce: 0.1}", "ce: 0.1, ce: 0.2}"), {"'ce' is given twice"});
  expect_has(error_of("lr_features: 5e-3", "lr_features: 0"), {"'lr_features' is '0'"});
}

TEST(Recipe, ResolvedTextGivesTheSameRecipe) {
  const Recipe r = good();
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(r).dump(1));
}

const std::string kChats = R"(name: chats
data: {train: [a.jsonl, {file: b.jsonl, weight: 3}, {file: c.jsonl}]}
stages:
- {name: sft, loss: {ce: 1, logits: {mask: labels}}, steps: 9, lr: 1e-5}
- {name: pack, loss: {ce: {mask: all}, logits: 0.1}, steps: 9, lr: 1e-5}
- {name: dpo, loss: {dpo: {beta: 0.01, reference: start}}, steps: 9, lr: 1e-6, seq: 100, batch: 4, max_prompt: 40}
)";

TEST(Recipe, ChatsAndPairs) {
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

const std::string kParts = R"(name: parts
data: {train: [a.jsonl]}
defaults: {data: chats.jsonl, epochs: 2, lr: 1e-4}
stages:
- {name: align, loss: hidden, data: {train: [b.jsonl, {file: c.jsonl, weight: 3}]}, schedule: {plateau: {patience: 3, min_lr: 1e-5}}}
- {name: kd, loss: logits, steps: 900, switch_teacher: {to: big, when: {step: 400}}, schedule: {plateau: {every: 7, factor: 0.5, threshold: 0.01}}}
- {name: cached, loss: {logits: {cache: logits, top_k: 16}}, epochs: 0.5, tokens: 2M, data: [d.jsonl]}
- {name: late, loss: logits, minutes: 3, data: {file: e.jsonl, weight: 2}, switch_teacher: {to: big, when: plateau}}
)";

TEST(Recipe, TextBudgetsAndTeachersOfStages) {
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

TEST(Recipe, ErrorsAboutTextBudgetsAndTeachersOfStages) {
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

TEST(Recipe, ChatErrorsSayWhatIsWrong) {
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

TEST(Recipe, FlagsOverride) {
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

TEST(Recipe, FlagErrorsNameTheFlag) {
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

TEST(Recipe, FieldsThatDoNotGoTogetherAreBlamedOnTheFlag) {
  const auto wrong = [](const char* mixer, const char* key, const char* value) {
    const auto r = parse_recipe(kGood, "a.yaml", {{"student.mixer", mixer, "--mixer"}, {"student.config", "{}", "--set ..."},
                                                  {cat("student.config.", key), value, cat("--set student.config.", key, "=", value)}});
    return r.ok() ? std::string() : r.error().message;
  };
  expect_has(wrong("mamba", "dt_max", "1e-4"),
             {"--set student.config.dt_max=1e-4: student: mixer 'mamba': 'dt_min' is 0.001, more than 'dt_max', 0.0001"});
  expect_has(wrong("mlstm", "soft_cap", "5"), {"--set student.config.soft_cap=5", "'retention' is 0.9975", "'soft_cap' 5", "0.993"});
  EXPECT_EQ(wrong("mlstm", "soft_cap", "7"), "");
}

TEST(Recipe, BadInputIsOneLineWithFileAndLine) {
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

TEST(Recipe, LayerWiseLosses) {
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

TEST(Recipe, AWarmUpFitsItsStage) {
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

TEST(Recipe, WhatAStageHasNoUseForIsRefused) {
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

TEST(Recipe, ThoseThatComeAlongAreRead) {
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

TEST(Recipe, CountsHaveBounds) {
  expect_has(error_of("held_out: 0.05", "calibration_tokens: 2e12"), {"a.yaml:4", "'calibration_tokens' is '2e12'", "from 256 to 1000000"});
  expect_has(error_of("held_out: 0.05", "calibration_tokens: 3B"), {"a.yaml:4", "from 256 to 1000000"});
  expect_has(error_of("tokens: 1.5M", "steps: 0"), {"a.yaml:16", "'steps' is '0'", "at least 1"});
  expect_has(error_of("  minutes: 5", "  minutes: 0"), {"a.yaml:9", "'minutes' is '0'"});
}

TEST(Recipe, StageWithoutABudget) {
  const auto recipe = parse_recipe("name: a\nstages:\n- {name: x, loss: ce, lr: 1}\n", "a.yaml");
  ASSERT_FALSE(recipe.ok());
  expect_has(recipe.error().message, {"a.yaml:3", "needs a budget"});
}

TEST(Recipe, Keep) {
  for (const char* text : {"none", "heads:12", "layers:6", "0.25", "list:7,18.2,23"}) {
    const auto keep = parse_keep(text);
    ASSERT_TRUE(keep.ok()) << text;
    EXPECT_EQ(keep_text(*keep), text);
  }
  for (const char* text : {"", "heads", "heads:", "heads:x", "heads:-1", "1.5", "list:", "list:a", "list:1.", "layers:1.5", "7,14x"}) {
    EXPECT_FALSE(parse_keep(text).ok()) << text;
  }
}

TEST(Recipe, Numbers) {
  EXPECT_EQ(*parse_numbers("7, 0-3"), (std::vector<int>{0, 1, 2, 3, 7}));
  for (const char* text : {"0", "0-3,7", "1,3,5-6"}) EXPECT_EQ(numbers_text(*parse_numbers(text)), text);
  for (const char* text : {"", "a", "-1", "3-1", "1-", "1,,2", "1,1", "0-3,2", "1.5", "123456"}) EXPECT_FALSE(parse_numbers(text).ok()) << text;
}

TEST(Recipe, Init) {
  EXPECT_EQ(good().student.init, StudentInit::kTeacher);
  const Recipe r = good({{"student.init", "random", "--set ..."}});
  EXPECT_EQ(r.student.init, StudentInit::kRandom);
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(again->student.init, StudentInit::kRandom);
  expect_has(error_of("keep: heads:12", "init: randm"), {"a.yaml:3", "unknown init 'randm'; did you mean 'random'"});
  expect_has(error_of("keep: heads:12", "init: random, start: runs/a"), {"a.yaml:3", "'init' is random", "runs/a"});
}

TEST(Recipe, Stepwise) {
  EXPECT_FALSE(good().student.stepwise.any());
  const auto with = [](const char* keep, const char* stepwise) {
    return parse_recipe(kGood, "a.yaml", {{"student.keep", keep, "--keep"}, {"student.stepwise", stepwise, "--set student.stepwise"}});
  };
  for (const char* value : {"[0.75, 0.5]", "[0.75]", "0.75", "one_by_one"}) {
    const auto r = with("0.25", value);
    ASSERT_TRUE(r.ok()) << r.error().message;
    EXPECT_TRUE(r->student.stepwise.any());
    const auto again = parse_recipe(resolved_yaml(*r), "resolved.yaml");
    ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(*r);
    EXPECT_EQ(again->student.stepwise.shares, r->student.stepwise.shares);
    EXPECT_EQ(again->student.stepwise.one_by_one, r->student.stepwise.one_by_one);
    EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(*r).dump(1));
  }
  EXPECT_EQ(with("0.25", "[0.75, 0.5]")->student.stepwise.shares, (std::vector<double>{0.75, 0.5}));
  EXPECT_FALSE(with("0.25", "[]")->student.stepwise.any());
  for (const char* value : {"[0.5, 0.75]", "[1]", "[0]", "[0.5, 0.5]", "all", "{a: 1}", "[[0.5]]"}) {
    const auto r = with("0.25", value);
    ASSERT_FALSE(r.ok()) << value;
    expect_has(r.error().message, {"--set student.stepwise", "'stepwise' must be one_by_one, or the falling shares"});
  }
  expect_has(with("heads:3", "[0.5]").error().message, {"'keep' is heads:3, which is measured"});
}

TEST(Recipe, Lora) {
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

TEST(Recipe, OtherMixersInSomeLayers) {
  const Recipe r = good({{"student.layers", "[{layers: '0-1,4', mixer: gla, config: {retention: 0.9}}, {layers: [2, 3], heads: 0, window: 16},"
                                            " {layers: 2, heads: [1, 2], mixer: retnet, window: 0}]", "--set ..."}});
  ASSERT_EQ(r.student.layers.size(), 3u);
  const LayerSpec &gla = r.student.layers[0], &slots = r.student.layers[1], &retnet = r.student.layers[2];
  EXPECT_EQ(gla.layers, (std::vector<int>{0, 1, 4}));
  EXPECT_TRUE(gla.heads.empty());
  EXPECT_EQ(gla.window, (WindowConfig{64, 4})) << "as the student's";
  EXPECT_EQ(gla.config, (nlohmann::json{{"retention", 0.9}}));
  EXPECT_EQ(slots.mixer, "slots");
  EXPECT_EQ(slots.config["slots"], 128) << "the same mixer keeps the student's fields";
  EXPECT_EQ(slots.window, (WindowConfig{16, 4}));
  EXPECT_EQ(retnet.heads, (std::vector<int>{1, 2}));
  EXPECT_TRUE(retnet.config.empty()) << "another mixer does not";
  EXPECT_EQ(retnet.window, WindowConfig());
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(r).dump(1));
  EXPECT_EQ(good({{"student.layers", "[]", "--set ..."}}).student.layers.size(), 0u);
}

TEST(Recipe, OtherMixersThatCannotBe) {
  const auto error = [](const std::string& layers) { return error_of("keep: heads:12", "layers: " + layers); };
  expect_has(error("3"), {"a.yaml:3", "'layers' must be a list"});
  expect_has(error("[gla]"), {"a.yaml:3", "student.layers[0] must be a mapping"});
  expect_has(error("[{mixer: gla}]"), {"a.yaml:3", "student.layers[0] needs 'layers'"});
  expect_has(error("[{layers: 3-1}]"), {"student.layers[0]: 'layers' is '3-1'", "0-3,7"});
  expect_has(error("[{layers: 0, heads: [1, 1]}]"), {"student.layers[0]: 'heads' is '1,1'", "once"});
  expect_has(error("[{layers: 0, mixer: glaa}]"), {"student.layers[0]: unknown mixer 'glaa'", "gla"});
  expect_has(error("[{layers: 0, mixer: gla, config: {slots: 3}}]"), {"student.layers[0]: mixer 'gla' has no field 'slots'"});
  expect_has(error("[{layers: 0, mixer: window, window: 0}]"), {"student.layers[0]: mixer 'window' needs a window"});
  expect_has(error("[{layers: 0, mixer: attention, window: 8}]"), {"student.layers[0]: mixer 'attention' takes no window"});
  expect_has(error("[{layers: 0, kv_heads: 1}]"), {"student.layers[0]: unknown key 'kv_heads'", "heads"});
  expect_has(error("[{layers: 0-3, mixer: gla}, {layers: 2, mixer: retnet}]"), {"student.layers[1]: layer 2 is in student.layers[0] too"});
  expect_has(error("[{layers: 2, heads: 0}, {layers: 2}]"), {"student.layers[1]: layer 2 is in student.layers[0] too"});
  expect_has(error("[{layers: 2, heads: 0-1}, {layers: 2, heads: 1}]"), {"student.layers[1]: kv head 1 of layer 2 is in student.layers[0] too"});
  const auto flag = parse_recipe(kGood, "a.yaml", {{"student.layers", "[{layers: 0, mixer: mambo}]", "--set student.layers=..."}});
  ASSERT_FALSE(flag.ok());
  expect_has(flag.error().message, {"--set student.layers=...: student.layers[0]: unknown mixer 'mambo'"});
}

TEST(Recipe, WhatTrains) {
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
