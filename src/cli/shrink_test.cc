// retort shrink on tiny models, through the program's own frame.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "io/model_files.h"
#include "run_cli.h"
#include "runtime/session.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

// Five layers: GLA, a layer of two parts, attention, GLA, attention.
ModelConfig student_config() {
  ModelConfig c = test::tiny_config();
  c.layers = 5;
  c.plan = attention_plan(c);
  const Part gla{"gla", {0, 1}, {8, 2}};
  c.plan[0].parts = {gla};
  c.plan[1].parts = {Part{"retnet", {0}, {}}, Part{"attention", {1}, {}}};
  c.plan[3].parts = {gla};
  EXPECT_TRUE(validate_plan(c).ok());
  c.provenance = {{"recipe", {{"name", "r"}}}};
  return c;
}

class ShrinkCommand : public testing::Test {
 protected:
  void SetUp() override {
    ModelConfig teacher = test::tiny_config();
    teacher.layers = 5;
    teacher.plan = attention_plan(teacher);
    ASSERT_TRUE(test::write_random_model(teacher_, teacher).ok());
    teacher.tie_embeddings = false;
    ASSERT_TRUE(test::write_random_model(untied_, teacher).ok());
    ASSERT_TRUE(test::write_random_model(student_, student_config()).ok());
  }
  Outcome shrink(const std::string& model, std::vector<std::string> more) {
    std::vector<std::string> arguments{"shrink", model};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  // Logits after a text.
  static std::vector<float> logits(const std::string& model) {
    ThreadPool pool(1);
    auto files = open_model(model);
    if (!files.ok()) return ADD_FAILURE() << files.error().message, std::vector<float>();
    auto loaded = Model::load(*files, WeightFormat::kAuto, pool);
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    Engine engine(*loaded, pool, {});
    Session session(engine);
    for (int t = 0; t < 40; ++t) session.commit((t * 37 + 11) % 256);
    EXPECT_TRUE(session.consume().ok());
    return {session.logits().begin(), session.logits().end()};
  }
  static std::vector<std::byte> bytes(const std::string& model, const std::string& name) {
    const auto files = open_model(model);
    if (!files.ok() || !files->weights->has(name)) return ADD_FAILURE() << model << " has no " << name, std::vector<std::byte>();
    const auto view = files->weights->tensor(name);
    return {view->data, view->data + view->bytes()};
  }
  static nlohmann::json config(const std::string& model) { return nlohmann::json::parse(test::read_file(model + "/config.json")); }

  test::TempFolder folder_;
  const std::string teacher_ = folder_ / "teacher", untied_ = folder_ / "untied", student_ = folder_ / "student", out_ = folder_ / "out";
};

TEST_F(ShrinkCommand, AllLayersAreTheModel) {
  for (const std::string& model : {teacher_, untied_, student_}) {
    for (const char* pick : {"first", "last", "even"}) {
      const std::string out = cat(out_, "-", std::filesystem::path(model).filename().string(), "-", pick);
      const auto outcome = shrink(model, {"--layers", "5", "--pick", pick, "--out", out, "--json"});
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_EQ(outcome.json()["layers"], (std::vector<int>{0, 1, 2, 3, 4}));
      EXPECT_EQ(logits(out), logits(model)) << out;
    }
  }
}

TEST_F(ShrinkCommand, TheFirstTwoAreTheModelCutByHand) {
  ASSERT_EQ(shrink(teacher_, {"--layers", "2", "--pick", "first", "--out", out_}).code, 0);
  // By hand: the folder as it is, with another count in its configuration. Tensors beyond are ignored.
  const std::string by_hand = folder_ / "by-hand";
  std::filesystem::copy(teacher_, by_hand, std::filesystem::copy_options::recursive);
  auto edited = config(by_hand);
  edited["num_hidden_layers"] = 2;
  test::write_file(by_hand + "/config.json", edited.dump());
  EXPECT_EQ(logits(out_), logits(by_hand));
  EXPECT_NE(logits(out_), logits(teacher_));
  // A plain Llama: what transformers loads.
  const auto written = config(out_);
  EXPECT_EQ(written["model_type"], "llama");
  EXPECT_EQ(written["architectures"][0], "LlamaForCausalLM");
  EXPECT_EQ(written["num_hidden_layers"], 2);
  EXPECT_FALSE(written.contains("distill_config"));
  EXPECT_EQ(test::read_file(out_ + "/tokenizer.json"), test::read_file(teacher_ + "/tokenizer.json"));
  const auto names = open_model(out_)->weights->names();
  EXPECT_EQ(std::count_if(names.begin(), names.end(), [](const std::string& n) { return n.find("layers.2.") != std::string::npos; }), 0);
}

TEST_F(ShrinkCommand, LayersAreTakenFromWhereTheyStand) {
  const std::pair<std::vector<std::string>, std::vector<int>> choices[] = {
      {{"--layers", "0,2,4"}, {0, 2, 4}},  {{"--layers", "1-2,4"}, {1, 2, 4}},       {{"--layers", "3", "--pick", "last"}, {2, 3, 4}},
      {{"--layers", "3", "--pick", "even"}, {0, 2, 4}}, {{"--layers", "4"}, {0, 1, 2, 4}}, {{"--layers", "1"}, {0}}, {{"--layers", "4-4"}, {4}}};
  for (size_t c = 0; c < std::size(choices); ++c) {
    const auto& [flags, layers] = choices[c];
    const std::string out = cat(out_, c);
    std::vector<std::string> arguments = flags;
    arguments.insert(arguments.end(), {"--out", out, "--json"});
    const auto outcome = shrink(untied_, arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.json()["layers"], layers) << c;
    for (size_t i = 0; i < layers.size(); ++i) {
      for (const char* name : {"self_attn.k_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"}) {
        EXPECT_EQ(bytes(out, cat("model.layers.", i, ".", name)), bytes(untied_, cat("model.layers.", layers[i], ".", name))) << c << " " << name;
      }
    }
    for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}) EXPECT_EQ(bytes(out, name), bytes(untied_, name)) << name;
  }
}

TEST_F(ShrinkCommand, AStudentStaysAStudent) {
  ASSERT_EQ(shrink(student_, {"--layers", "1,3", "--out", out_}).code, 0);
  const auto written = config(out_);
  EXPECT_EQ(written["model_type"], "retort");
  EXPECT_EQ(written["num_hidden_layers"], 2);
  EXPECT_EQ(written["distill_config"]["recipe"]["name"], "r");
  EXPECT_EQ(written["distill_config"]["shrunk_to_layers"], (std::vector<int>{1, 3}));
  const auto files = open_model(out_);
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ(files->config.plan[0], student_config().plan[1]);
  EXPECT_EQ(files->config.plan[1], student_config().plan[3]);
  EXPECT_EQ(bytes(out_, "model.layers.0.mixer.parts.1.q_proj.weight"), bytes(student_, "model.layers.1.mixer.parts.1.q_proj.weight"));
  EXPECT_EQ(bytes(out_, "model.layers.1.mixer.q_proj.weight"), bytes(student_, "model.layers.3.mixer.q_proj.weight"));
  // Nothing but attention is left of it: a Llama again.
  const std::string plain = folder_ / "plain";
  ASSERT_EQ(shrink(student_, {"--layers", "2,4", "--out", plain}).code, 0);
  EXPECT_EQ(config(plain)["model_type"], "llama");
}

TEST_F(ShrinkCommand, WhatIsWrittenDrafts) {
  for (const std::string& model : {teacher_, student_}) {
    const std::string draft = model + "-draft";
    ASSERT_EQ(shrink(model, {"--layers", "3", "--out", draft}).code, 0);
    const auto generate = [&](std::vector<std::string> more) {
      std::vector<std::string> arguments = {"generate", model, "-p", "one two one two one", "-n", "32", "--temp", "0", "--json"};
      arguments.insert(arguments.end(), more.begin(), more.end());
      return run(arguments);
    };
    const auto plain = generate({}), guessed = generate({"-md", draft});
    ASSERT_EQ(guessed.code, 0) << guessed.err;
    EXPECT_EQ(guessed.json()["tokens"], plain.json()["tokens"]);
    EXPECT_GT(guessed.json()["speculation"]["guessed"], 0);
  }
}

TEST_F(ShrinkCommand, QuantisedBlocksBecomeBf16) {
  const std::string wide = folder_ / "wide", gguf = folder_ / "m.gguf";
  ModelConfig whole_blocks = test::tiny_config();
  whole_blocks.layers = 5, whole_blocks.mlp_width = 64;
  whole_blocks.plan = attention_plan(whole_blocks);
  ASSERT_TRUE(test::write_random_model(wide, whole_blocks).ok());
  ASSERT_EQ(run({"convert", wide, "--to", "gguf", "--dtype", "q8_0", "--out", gguf}).code, 0);
  const auto outcome = shrink(gguf, {"--layers", "2", "--pick", "last", "--out", out_, "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["dtype"], "bfloat16");
  EXPECT_EQ(config(out_)["num_hidden_layers"], 2);
  const auto source = open_model(gguf), cut = open_model(out_);
  const auto expected = read_f32(*source->weights->tensor("model.layers.3.mlp.up_proj.weight"));
  const auto found = read_f32(*cut->weights->tensor("model.layers.0.mlp.up_proj.weight"));
  ASSERT_EQ(found->size(), expected->size());
  for (size_t i = 0; i < found->size(); ++i) ASSERT_NEAR((*found)[i], (*expected)[i], std::abs((*expected)[i]) / 256) << "bf16 has 8 bits";
  EXPECT_EQ(run({"generate", out_, "-p", "a", "-n", "2"}).code, 0) << "the tokenizer came too";
}

TEST_F(ShrinkCommand, BadInputIsOneLineAndExitCodeTwo) {
  std::filesystem::create_directory(folder_ / "full");
  test::write_file(folder_ / "full/mine.txt", "mine");
  test::write_file(folder_ / "file", "mine");
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"--out", out_}, "--layers"},
      {{"--layers", "6", "--out", out_}, "has 5 layers"},
      {{"--layers", "0", "--out", out_}, "one layer at least"},
      {{"--layers", "-1", "--out", out_}, "expected a number"},
      {{"--layers", "two", "--out", out_}, "expected a number"},
      {{"--layers", "99999999999", "--out", out_}, "expected a number"},
      {{"--layers", "0,5", "--out", out_}, "no layer 5"},
      {{"--layers", "2,1", "--out", out_}, "layer 1 after layer 2"},
      {{"--layers", "2,2", "--out", out_}, "layer 2 after layer 2"},
      {{"--layers", "0,1", "--pick", "first", "--out", out_}, "--pick"},
      {{"--layers", "2", "--pick", "middle", "--out", out_}, "middle"},
      {{"--layers", "2"}, "--out"},
      {{"--layers", "2", "--out", folder_ / "full"}, "not empty"},
      {{"--layers", "2", "--out", folder_ / "full/"}, "not empty"},
      {{"--layers", "2", "--out", folder_ / "file"}, "a file"},
      {{"--layers", "2", "--out", teacher_}, "not empty"},
      {{"--layers", "2", "--out", "/proc/nowhere/x"}, "/proc/nowhere"}};
  for (const auto& [flags, what] : wrong) {
    const auto outcome = shrink(teacher_, flags);
    EXPECT_EQ(outcome.code, 2) << what << outcome.err;
    EXPECT_EQ(outcome.out, "") << what;
    EXPECT_EQ(outcome.err.rfind("retort: error: ", 0), 0u) << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(out_)) << what;
  }
  EXPECT_EQ(shrink(folder_ / "absent", {"--layers", "2", "--out", out_}).code, 2);
  EXPECT_EQ(test::read_file(folder_ / "full/mine.txt"), "mine");
}

}  // namespace
}  // namespace retort::cli
