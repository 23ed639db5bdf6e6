// What students a run can begin and end with, on a tiny teacher: hybrids, steps, LoRA, drafts, folders to start from; and what it leaves alone.
#include "base/sha256.h"
#include "support/train_program.h"

namespace retort::train {
namespace {

using TrainStudentsTest = TrainMainTest;

TEST_F(TrainStudentsTest, KeepsHeadsAndStartsFromAStudent) {
  ASSERT_EQ(run({"--out", folder_ / "a"}), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "h", "--start", folder_ / "a/student", "--keep", "heads:2", "--set", "align.steps=2"}), 0) << err();
  const auto student = open_model(folder_ / "h/student");
  ASSERT_TRUE(student.ok()) << student.error().message;
  int kept = 0;
  for (const auto& layer : student->config.plan) {
    for (const auto& part : layer.parts) kept += part.mixer == "attention" ? int(part.kv_heads.size()) : 0;
  }
  EXPECT_EQ(kept, 2);
  const auto train = nlohmann::json::parse(retort::test::read_file(folder_ / "h/train.json"));
  EXPECT_EQ(train["kept"].size(), 2u);
}

// Of a random start the body and kept attention are the teacher's, and a resume does not know the difference.
TEST_F(TrainStudentsTest, RandomProjectionsUnderACopiedBody) {
  const std::vector<std::string> flags = {"--set", "student.init=random", "--set", "student.keep=[1]"};
  const auto with = [&](const std::string& out, const std::vector<std::string>& more = {}) { return command(out, flags, more); };
  ASSERT_EQ(run(with("a")), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "copied", "--set", "student.keep=[1]"}), 0) << err();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"}) {
    EXPECT_EQ(tensor_of("a/student-init", name), tensor_of("copied/student-init", name)) << name;
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    const std::string full = cat("model.layers.0.mixer.", name, ".weight");
    EXPECT_NE(tensor_of("a/student-init", full), tensor_of("copied/student-init", full)) << name;
  }
  EXPECT_GT(losses_of("a")[0], losses_of("copied")[0]);
  kill_run(with("b", {"--set", "checkpoint_minutes=1e-9"}), 5);
  ASSERT_EQ(run(with("b", {"--set", "checkpoint_minutes=1e-9", "--resume"})), 0) << err();
  EXPECT_EQ(weights("b"), weights("a"));
  EXPECT_EQ(run(with("never", {"--start", folder_ / "a/student"})), 2);
  EXPECT_NE(err().find("'init' is random, but all values come from 'start'"), std::string::npos) << err();
  EXPECT_EQ(run(with("never", {"--dry-run"})), 0);
  EXPECT_NE(retort::test::read_file(folder_ / "out.txt").find("starts from teacher with random projections"), std::string::npos);
}

// One layer after another, then the rest of the recipe; killed in every step, the same bits.
TEST_F(TrainStudentsTest, StepsCarryWeightsAndResumeBitForBit) {
  for (const bool shares : {false, true}) {
    const std::string a = cat("a", shares), b = "b";
    // Layer by layer with frozen attention; end to end with attention that trains, so that mixers start from what it has become.
    const std::vector<std::string> how = shares ? std::vector<std::string>{"--set", "student.stepwise=[0.67]", "--set", "student.keep=[2]", "--set",
                                                                           "align.loss=ce", "--set", "align.train=all", "--set", "align.steps=4"}
                                                : std::vector<std::string>{"--set", "student.stepwise=one_by_one"};
    const auto with = [&](const std::string& out, std::vector<std::string> more) {
      more.insert(more.end(), {"--set", "save_init=true"});
      return command(out, how, more);
    };
    ASSERT_EQ(run(with(a, {})), 0) << err();
    const auto train = nlohmann::json::parse(retort::test::read_file(folder_ / (a + "/train.json")));
    std::vector<std::string> names;
    for (const auto& stage : train["stages"]) names.push_back(stage["name"]);
    EXPECT_EQ(names, shares ? (std::vector<std::string>{"align[0.67]", "align[list]", "kd"})
                            : (std::vector<std::string>{"align[layer0]", "align[layer2]", "align[layer1]", "kd"}));
    EXPECT_EQ(train["steps"].size(), names.size() - 1);
    const auto student = open_model(folder_ / (a + "/student")), init = open_model(folder_ / (a + "/student-init"));
    ASSERT_TRUE(student.ok() && init.ok());
    for (int l = 0; l < 3; ++l) {
      EXPECT_EQ(student->config.plan[size_t(l)].parts[0].mixer, shares && l == 2 ? "attention" : "slots") << l;
      EXPECT_EQ(init->config.plan[size_t(l)].parts[0].mixer, l == 0 ? "slots" : "attention") << "the first step, layer " << l;
    }
    int killed = 0;
    for (const int rows : {2, 5, 9, 13}) {
      std::filesystem::remove_all(folder_ / b);
      const auto words = with(b, {"--set", "checkpoint_minutes=1e-9"});
      killed += run_until(words, SIGKILL, rows);
      auto go_on = words;
      go_on.push_back("--resume");
      ASSERT_EQ(run(go_on), 0) << err();
      EXPECT_TRUE(weights(b) == weights(a)) << rows;
      EXPECT_EQ(losses_of(b), losses_of(a)) << rows;
    }
    EXPECT_GT(killed, 0);
    ASSERT_EQ(run(with("never", {"--dry-run"})), 0) << err();
    const std::string said = retort::test::read_file(folder_ / "out.txt");
    EXPECT_NE(said.find(shares ? "step     0.67: replaces layers 0; attention in layers 1-2\nstep     list: replaces layers 1; attention in layers 2\n"
                               : "step     layer0: replaces layers 0; attention in layers 1-2\nstep     layer2: replaces layers 2; attention in layers 1\n"
                                 "step     layer1: replaces layers 1; no attention stays\n"), std::string::npos) << said;
    EXPECT_NE(said.find(shares ? "stage    align[0.67]: ce" : "stage    align[layer2]: attn_out"), std::string::npos) << said;
  }
}

// A hybrid's folder: with the same attention it goes on as it is, its own attention included; with less, mixers start from the folder's.
TEST_F(TrainStudentsTest, AHybridGoesOnOrLosesMoreAttention) {
  ASSERT_EQ(run({"--out", folder_ / "h", "--keep", "list:1,2", "--set", "kd.train=[all]", "--set", "kd.lr=1e-2"}), 0) << err();
  const std::string query = "model.layers.1.self_attn.q_proj.weight", became = "model.layers.1.mixer.q_proj.weight";
  ASSERT_EQ(run({"--out", folder_ / "same", "--start", folder_ / "h/student", "--keep", "list:1,2"}), 0) << err();
  for (const auto& name : open_model(folder_ / "h/student")->weights->names()) EXPECT_EQ(tensor_of("same/student-init", name), tensor_of("h/student", name)) << name;
  EXPECT_EQ(tensor_of("same/student", query), tensor_of("h/student", query)) << "attention that does not train stays the folder's";

  const std::vector<std::string> less = {"--start", folder_ / "h/student", "--keep", "list:2"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.end(), less.begin(), less.end());
    return words;
  };
  ASSERT_EQ(run(with({"--out", folder_ / "less"})), 0) << err();
  for (const char* projection : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    EXPECT_EQ(tensor_of("less/student-init", cat("model.layers.1.mixer.", projection, ".weight")), tensor_of("h/student", cat("model.layers.1.self_attn.", projection, ".weight")));
  }
  EXPECT_EQ(tensor_of("less/student-init", "model.layers.0.mixer.q_proj.weight"), tensor_of("h/student", "model.layers.0.mixer.q_proj.weight"));
  EXPECT_EQ(tensor_of("less/student", "model.layers.2.self_attn.k_proj.weight"), tensor_of("h/student", "model.layers.2.self_attn.k_proj.weight"));
  EXPECT_NE(tensor_of("less/student", became), tensor_of("less/student-init", became)) << "it trains";
  kill_run(with({"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9"}), 5);
  ASSERT_EQ(run(with({"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9", "--resume"})), 0) << err();
  EXPECT_EQ(weights("b"), weights("less"));
  // Attention that the folder has no more is the teacher's.
  ASSERT_EQ(run({"--out", folder_ / "more", "--start", folder_ / "less/student", "--keep", "list:0,2"}), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "plain", "--keep", "list:0"}), 0) << err();
  EXPECT_EQ(tensor_of("more/student-init", "model.layers.0.self_attn.q_proj.weight"), tensor_of("plain/student-init", "model.layers.0.self_attn.q_proj.weight"));
  // A pattern names some of what stays; a dry run measures the hybrid.
  ASSERT_EQ(run({"--out", folder_ / "some", "--keep", "list:1", "--set", "kd.train=[mixers, model.layers.1.self_attn.q_*]", "--set", "kd.lr=1e-2"}), 0) << err();
  EXPECT_NE(tensor_of("some/student", query), tensor_of("some/student-init", query));
  EXPECT_EQ(tensor_of("some/student", "model.layers.1.self_attn.k_proj.weight"), tensor_of("some/student-init", "model.layers.1.self_attn.k_proj.weight"));
  EXPECT_EQ(run({"--out", folder_ / "never", "--dry-run", "--keep", "list:1", "--set", "kd.train=[attention]"}), 0) << err();
  EXPECT_EQ(run({"--out", folder_ / "never", "--dry-run", "--keep", "list:1", "--set", "kd.train=[mixerz]"}), 2);
  EXPECT_NE(err().find("'mixerz'"), std::string::npos) << err();
}

// LoRA on mixers, on attention that stays and on MLPs, layer by layer and end to end: the student has no trace of it; what it is not on stays.
TEST_F(TrainStudentsTest, LoraIsMergedAndResumesBitForBit) {
  const std::vector<std::string> flags = {"--keep", "list:1", "--set", "align.train=[features, {lora: {r: 2, alpha: 4, on: [q, o]}}]", "--set",
                                          "kd.train={lora: {r: 3, alpha: 6, on: [q, v, down, up]}}", "--set", "kd.lr=2e-2", "--set", "kd.ema=0.5", "--set", "kd.steps=14"};
  const auto with = [&](const std::string& out, const std::vector<std::string>& more = {}) { return command(out, flags, more); };
  ASSERT_EQ(run(with("a")), 0) << err();
  const auto student = open_model(folder_ / "a/student");
  ASSERT_TRUE(student.ok());
  for (const auto& name : student->weights->names()) EXPECT_EQ(name.find("lora"), std::string::npos) << name;
  for (const char* name : {"model.layers.0.mixer.q_proj.weight", "model.layers.0.mixer.v_proj.weight", "model.layers.0.mixer.o_proj.weight",
                           "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight", "model.layers.2.mlp.up_proj.weight",
                           "model.layers.2.mlp.down_proj.weight"}) {
    EXPECT_NE(tensor_of("a/student", name), tensor_of("a/student-init", name)) << name;
  }
  for (const char* name : {"model.layers.0.mixer.k_proj.weight", "model.layers.1.self_attn.k_proj.weight", "model.layers.2.mlp.gate_proj.weight",
                           "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"}) {
    EXPECT_EQ(tensor_of("a/student", name), tensor_of("a/student-init", name)) << name;
  }
  for (const int rows : {4, 15}) {  // with LoRA layer by layer, and end to end
    const auto words = with("b", {"--set", "checkpoint_minutes=1e-9"});
    kill_run(words, rows);
    auto go_on = words;
    go_on.push_back("--resume");
    ASSERT_EQ(run(go_on), 0) << err();
    EXPECT_TRUE(weights("b") == weights("a")) << rows;
  }
  ASSERT_EQ(run(with("never", {"--dry-run", "--json"})), 0) << err();
  const auto d = nlohmann::json::parse(retort::test::read_file(folder_ / "out.txt"));
  // Width 32, MLPs of 48, two kv heads of 8: q and v of three layers, up and down of three.
  EXPECT_EQ(d["stages"][1]["parameters_trained"], 3 * 3 * ((32 + 32) + (16 + 32) + 2 * (48 + 32)));
  EXPECT_EQ(d["stages"][1]["lora"]["matrices"], 12);
  const std::pair<const char*, const char*> wrong[] = {{"kd.train=[mixers, {lora: {on: [q]}}]", "q_proj.weight trains itself, and has LoRA"},
                                                       {"kd.train={lora: {on: [qq]}}", "is called 'qq'"}};
  for (const auto& [set, what] : wrong) {
    EXPECT_EQ(run(with("never", {"--set", set})), 2);
    EXPECT_NE(err().find(what), std::string::npos) << err();
    EXPECT_FALSE(std::filesystem::exists(folder_ / "never"));
  }
}

// Layers of a model of its own, trained end to end against a teacher of another depth.
// What an earlier run has trained outside the mixers stays, also where this run does not train it, and over a resume.
TEST_F(TrainStudentsTest, AStudentStartsFromAllThatIsInItsFolder) {
  ASSERT_EQ(run({"--out", folder_ / "a", "--set", "kd.train=[all]", "--set", "kd.lr=1e-2"}), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "c", "--start", folder_ / "a/student"}), 0) << err();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}) {
    EXPECT_EQ(tensor_of("c/student", name), tensor_of("a/student", name)) << name;
  }
  std::vector<std::string> pieces = {"--out", folder_ / "b", "--start", folder_ / "a/student", "--set", "checkpoint_minutes=1e-9"};
  EXPECT_TRUE(run_until(pieces, SIGKILL, 5)) << "no signal came in time";
  pieces.push_back("--resume");
  ASSERT_EQ(run(pieces), 0) << err();
  EXPECT_EQ(weights("c"), weights("b"));
}

TEST_F(TrainStudentsTest, ADraftHasItsOwnDepthAndStartsFromItsFolder) {
  ModelConfig config = retort::test::tiny_config();
  config.layers = 2;
  config.plan = attention_plan(config);
  ASSERT_TRUE(retort::test::write_random_model(folder_ / "draft", config, 9).ok());  // not the teacher's values, in the body either
  retort::test::write_file(folder_ / "draft.yaml", R"(name: draft
save_init: true
student: {mixer: attention, start: here}
data: {held_out: 0.1}
stages:
- {name: kd, loss: {logits: {form: kl}}, train: [all], seq: 48, batch: 2, steps: 16, lr: 2e-3, clip: 1, schedule: cosine}
)");
  const auto arguments = [&](const std::string& out, std::vector<std::string> more = {}) {
    std::vector<std::string> words = {folder_ / "draft.yaml", "--out", folder_ / out, "--start", folder_ / "draft"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  ASSERT_EQ(run(arguments("d")), 0) << err();
  const auto student = open_model(folder_ / "d/student");
  ASSERT_TRUE(student.ok()) << student.error().message;
  EXPECT_EQ(student->config.layers, 2);
  EXPECT_TRUE(is_plain_transformer(student->config));
  EXPECT_EQ(student->config.provenance["recipe"]["name"], "draft");
  const auto start = open_model(folder_ / "draft");
  for (const auto& spec : model_tensors(config)) {
    const auto given = read_f32(*start->weights->tensor(spec.name)), began = read_f32(*open_model(folder_ / "d/student-init")->weights->tensor(spec.name));
    ASSERT_EQ(given->size(), began->size());
    for (size_t i = 0; i < given->size(); ++i) ASSERT_NEAR((*began)[i], (*given)[i], std::abs((*given)[i]) / 256) << spec.name << ", in bf16";
    EXPECT_NE(tensor_of("d/student", spec.name), tensor_of("d/student-init", spec.name)) << spec.name << " trains";
  }
  const auto losses = losses_of("d");
  ASSERT_EQ(losses.size(), 16u);
  EXPECT_LT(losses[14] + losses[15], 0.9 * (losses[0] + losses[1]));

  const auto in_pieces = arguments("b", {"--set", "checkpoint_minutes=1e-9"});
  auto go_on = in_pieces;
  go_on.push_back("--resume");
  kill_run(in_pieces, 5);
  ASSERT_EQ(run(go_on), 0) << err();
  EXPECT_EQ(weights("b"), weights("d"));

  // What is frozen stays what the folder says, not what the teacher has.
  ASSERT_EQ(run(arguments("f", {"--set", "kd.train=[mlp]", "--set", "kd.steps=3"})), 0) << err();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"}) {
    EXPECT_EQ(tensor_of("f/student", name), tensor_of("d/student-init", name)) << name;
  }
  EXPECT_NE(tensor_of("f/student", "model.layers.1.mlp.up_proj.weight"), tensor_of("d/student-init", "model.layers.1.mlp.up_proj.weight"));

  config.mlp_width = 40;
  ASSERT_TRUE(retort::test::write_random_model(folder_ / "narrow", config).ok());
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"--set", "kd.loss=attn_out"}, "stage 'kd' compares layer by layer"},
      {{"--keep", "heads:1"}, "student.keep is heads:1"},
      {{"--set", "student.stepwise=one_by_one"}, "student.stepwise replaces attention of the teacher's layers"},
      {{"--start", folder_ / "narrow"}, "only the number of layers may differ"},
      {{"--set", "student.layers=[{layers: 2, mixer: gla}]"}, "names layer 2; the model has layers 0 to 1"},
      {{"--mixer", "gla"}, "layer 0 is not mixer 'gla'"}};
  for (const auto& [flags, what] : wrong) {
    auto words = arguments("never");
    if (flags[0] == "--start") words.resize(3);
    words.insert(words.end(), flags.begin(), flags.end());
    for (const bool dry : {false, true}) {
      if (dry) words.push_back("--dry-run");
      if (dry && std::string(what).find("is not mixer") != std::string::npos) continue;  // the folder's weights are not looked at
      EXPECT_EQ(run(words), 2) << what;
      const auto lines = err();
      EXPECT_NE(lines.find(what), std::string::npos) << lines;
      EXPECT_FALSE(std::filesystem::exists(folder_ / "never")) << what;
    }
  }
}

// Gates alone train, or LoRA of one projection; everything else keeps its bits, whatever the weight decay.
TEST_F(TrainStudentsTest, WhatAStageDoesNotTrainKeepsItsBits) {
  retort::test::write_file(folder_ / "teacher/tokenizer.json", retort::test::chat_tokenizer_json());
  retort::test::write_file(folder_ / "teacher/tokenizer_config.json", retort::test::chat_tokenizer_config());
  std::string pairs;
  for (int d = 0; d < 40; ++d) {
    pairs += nlohmann::json{{"prompt", cat("What is ", d, "?")}, {"chosen", cat("It is ", d, ".")}, {"rejected", cat("No ", d)}}.dump() + "\n";
  }
  retort::test::write_file(folder_ / "pairs.jsonl", pairs);
  const std::string gates = "train: [gates]", lora = "train: [{lora: {r: 2, alpha: 4, on: [v]}}]", own = cat("data: ", folder_ / "pairs.jsonl");
  struct Case {
    std::string name, fields, changed;
  };
  const std::vector<Case> cases = {{"attn_out", cat("loss: {attn_out: {form: relative}}, ", gates), ".gk_proj."},
                                   {"hidden", cat("loss: hidden, ", gates), ".gk_proj."},
                                   {"logits", cat("loss: logits, ", gates), ".gk_proj."},
                                   {"ce", cat("loss: ce, ", gates), ".gk_proj."},
                                   {"dpo", cat("loss: dpo, ", gates, ", ", own), ".gk_proj."},
                                   {"lora", cat("loss: logits, ", lora), ".v_proj."}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    retort::test::write_file(folder_ / "frozen.yaml", cat("name: frozen\nsave_init: true\nstudent: {mixer: gla, window: 0, sinks: 0}\n"
                                                          "data: {held_out: 0.1, calibration_tokens: 512}\ndefaults: {seq: 80, batch: 2, lr: 0.01, steps: 3}\n"
                                                          "stages:\n- {name: only, weight_decay: 0.5, ", c.fields, "}\n"));
    ASSERT_EQ(run({folder_ / "frozen.yaml", "--out", folder_ / c.name}), 0) << err();
    const auto student = open_model(folder_ / (c.name + "/student"));
    ASSERT_TRUE(student.ok()) << student.error().message;
    int changed = 0;
    for (const std::string& name : student->weights->names()) {
      const bool same = tensor_of(c.name + "/student", name) == tensor_of(c.name + "/student-init", name);
      if (name.find(c.changed) == std::string::npos) EXPECT_TRUE(same) << name;
      else changed += !same;
    }
    EXPECT_GT(changed, 0);
  }
}

}  // namespace
}  // namespace retort::train
