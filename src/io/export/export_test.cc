#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "io/export/builder.h"
#include "io/export/targets.h"
#include "io/hf_config.h"
#include "io/model_files.h"
#include "io/tokenizer_files.h"
#include "support/tiny_model.h"
#include "test_files.h"
#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::RandomStore;

// Heads of 8, in all as wide as the model; the width is a multiple of Q8_0's block.
ModelConfig sizes() {
  ModelConfig c;
  c.name = "tiny";
  c.layers = 3, c.width = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 64, c.vocab_size = 260, c.context_length = 128;
  c.bos_id = 1, c.eos_ids = {2};
  c.plan = attention_plan(c);
  return c;
}

// `mixer` in layers 0 and 2 (and 1, when `pure`), attention between them.
ModelConfig student(const std::string& mixer, nlohmann::json fields, bool pure) {
  ModelConfig c = sizes();
  for (int l : {0, 1, 2}) {
    if (l != 1 || pure) c.plan[size_t(l)].parts = {Part{mixer, {0, 1}, {}, fields.is_null() ? nlohmann::json::object() : fields}};
  }
  EXPECT_TRUE(validate_plan(c).ok());
  return c;
}

// In every layer, with llama.cpp's heads of 64.
ModelConfig rwkv7_student() {
  ModelConfig c = sizes();
  c.width = 128, c.heads = 2, c.kv_heads = 1, c.head_dim = 64, c.tie_embeddings = true;
  c.plan = attention_plan(c);
  for (auto& layer : c.plan) layer.parts.front().mixer = "rwkv7";
  EXPECT_TRUE(validate_plan(c).ok());
  return c;
}

struct Case {
  std::string name, target;
  ModelConfig config;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  const auto add = [&](std::string name, std::string target, ModelConfig c) { out.push_back({std::move(name), std::move(target), std::move(c)}); };
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    ModelConfig c = sizes();
    c.family = family;
    c.qkv_bias = c.family == "qwen2";
    c.qk_norm = c.family == "qwen3";
    c.tie_embeddings = c.family == "qwen3";
    add(family, "gguf", c);
  }
  ModelConfig llama3 = sizes();
  llama3.rope = {5e5, RopeConfig::Scaling::kLlama3, 8.0, 1.0, 4.0, 8192};
  add("llama3", "gguf", llama3);
  const auto add_student = [&](const std::string& target, const std::string& mixer, const nlohmann::json& fields, bool pure = true) {
    add(cat(mixer, pure ? "" : " hybrid"), target, student(mixer, fields, pure));
  };
  for (bool pure : {true, false}) {
    add_student("fla", "gla", {{"conv_size", pure ? 0 : 4}}, pure);
    add_student("fla", "hgrn2", {{"forget_bias", 0}}, pure);
    add_student("fla", "retnet", {}, pure);
    add_student("fla", "deltanet", {{"output_gate", pure ? 1 : 0}}, pure);
    add_student("fla", "gated_deltanet", {{"allow_neg_eigval", 1}}, pure);
    add_student("fla", "hedgehog", {{"shared", 1}, {"output_norm", 1}, {"rope", 0}}, pure);
    for (const char* target : {"bamba", "granite", "gguf"}) add_student(target, "mamba2", {}, pure);
  }
  ModelConfig mixed = sizes();  // what no other program knows
  const auto none = nlohmann::json::object();
  mixed.plan = {{{Part{"slots", {0, 1}, {8, 2}, {{"slots", 16}}}}}, {{Part{"rwkv7", {0}, {}, none}, Part{"attention", {1}, {}, none}}}, {{Part{"mamba2", {0, 1}, {4, 0}, none}}}};
  EXPECT_TRUE(validate_plan(mixed).ok());
  add("mixed", "retort", mixed);
  add("transformer", "retort", sizes());
  ModelConfig window = sizes();
  for (auto& layer : window.plan) layer.parts.front() = Part{"window", {0, 1}, {8, 0}};
  EXPECT_TRUE(validate_plan(window).ok());
  add("window", "mistral", window);
  for (const char* target : {"qwen3_5", "gguf"}) add_student(target, "gated_deltanet", {});
  add("rwkv7", "gguf", rwkv7_student());
  for (bool tied : {true, false}) {
    ModelConfig c = sizes();
    c.heads = 8, c.kv_heads = 2, c.tie_embeddings = tied;
    c.plan = attention_plan(c);
    for (auto& layer : c.plan) layer.parts.front().mixer = "mlstm";
    EXPECT_TRUE(validate_plan(c).ok());
    add(tied ? "mlstm tied" : "mlstm", "xlstm", c);
  }
  return out;
}

TensorValues values_of(RandomStore& store) {
  return [&store](const std::string& name) -> Result<std::vector<float>> { return store.values(name); };
}

std::string refusal(const ModelConfig& config, const std::string& target) {
  const auto plan = find_export_target(target)->plan(config);
  return plan.ok() ? "" : plan.error().message;
}

void expect_same(const std::string& name, const std::vector<float>& ours, const std::vector<float>& back) {
  ASSERT_EQ(ours.size(), back.size()) << name;
  for (size_t i = 0; i < ours.size(); ++i) ASSERT_EQ(ours[i], back[i]) << name << "[" << i << "]";
}

TEST(Export, EveryTargetReadsBackTheSameModel) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(cat(c.target, " ", c.name));
    const test::TempFolder folder;
    RandomStore store(c.config, 7);
    const ExportTarget* target = find_export_target(c.target);
    ASSERT_NE(target, nullptr);
    const std::string path = folder / (target->gguf ? "m.gguf" : "m");
    const auto written = write_export(path, *target, c.config, values_of(store), {});
    ASSERT_TRUE(written.ok()) << written.error().message;
    const auto back = open_model(path);
    ASSERT_TRUE(back.ok()) << back.error().message;
    if (is_plain_transformer(c.config)) {
      EXPECT_EQ(back->config.plan, c.config.plan);
      EXPECT_EQ(back->config.rope, c.config.rope);
    } else {
      EXPECT_EQ(fingerprint(back->config), fingerprint(c.config));
    }
    for (const TensorSpec& spec : model_tensors(c.config)) {
      const auto view = back->weights->tensor(spec.name);
      ASSERT_TRUE(view.ok()) << view.error().message;
      const auto values = read_f32(*view);
      ASSERT_TRUE(values.ok());
      expect_same(spec.name, store.values(spec.name), *values);
    }
  }
}

// Nothing outside has the other mixers; each target says so of each.
TEST(Export, AMixerHasATargetOrIsRefusedByAll) {
  std::set<std::string> fits;
  const std::string ours = "retort";  // takes everything
  for (const Case& c : cases()) {
    for (const LayerPlan& layer : c.config.plan) {
      if (c.target != ours) fits.insert(layer.parts.front().mixer);
    }
  }
  for_each_mixer([&](auto tag) {
    const std::string mixer = decltype(tag)::type::kName;
    if (fits.count(mixer)) return;
    ModelConfig c = sizes();
    for (auto& layer : c.plan) {
      layer.parts.front().mixer = mixer;
      if (decltype(tag)::type::kNeedsWindow) layer.parts.front().window = {8, 0};
    }
    ASSERT_TRUE(validate_plan(c).ok()) << mixer;
    for (const ExportTarget& target : export_targets()) {
      if (target.name == ours) continue;
      const std::string message = refusal(c, target.name);
      EXPECT_EQ(message.find("cannot be written"), 0u) << target.name << " " << mixer << ": '" << message << "'";
      EXPECT_EQ(message.find('\n'), std::string::npos);
    }
  });
}

TEST(Export, MatricesMayBeSmaller) {
  const Case c{"llama", "gguf", sizes()};
  RandomStore store(c.config, 7);
  for (TensorType type : {TensorType::kBF16, TensorType::kF16, TensorType::kQ8_0, TensorType::kQ4_0, TensorType::kQ4_1}) {
    SCOPED_TRACE(tensor_type_name(type));
    const test::TempFolder folder;
    ExportOptions options;
    options.matrices = type;
    ASSERT_TRUE(write_export(folder / "m.gguf", *find_export_target("gguf"), c.config, values_of(store), options).ok());
    const auto back = open_model(folder / "m.gguf");
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back->weights->tensor("model.norm.weight")->type, TensorType::kF32);
    EXPECT_EQ(back->weights->tensor("model.layers.0.mlp.up_proj.weight")->type, type);
    const auto values = read_f32(*back->weights->tensor("model.layers.0.self_attn.q_proj.weight"));
    const auto& exact = store.values("model.layers.0.self_attn.q_proj.weight");
    // A step of the format, for values up to 1.5 / sqrt(32): 1/128 of BF16's exponent, 2/127, 2/16 and 1/15 of the range.
    const float most = 0.27f, steps = type == TensorType::kF16 ? 0x1p-10f : type == TensorType::kBF16 ? 0x1p-7f : type == TensorType::kQ8_0 ? 1 / 127.0f : 1 / 7.0f;
    for (size_t i = 0; i < exact.size(); ++i) ASSERT_NEAR((*values)[i], exact[i], most * steps) << i;
  }
}

TEST(Export, FoldersSayTheirClass) {
  const test::TempFolder folder;
  const ModelConfig c = student("gla", {}, true);
  RandomStore store(c, 7);
  ExportOptions options;
  options.extra_files["tokenizer.json"] = test::byte_tokenizer_json();
  ASSERT_TRUE(write_export(folder / "m", *find_export_target("fla"), c, values_of(store), options).ok());
  const auto json = nlohmann::json::parse(test::read_file(folder / "m/config.json"));
  EXPECT_EQ(json.at("model_type"), "gla");
  EXPECT_EQ(json.at("architectures").at(0), "GLAForCausalLM");
  EXPECT_EQ(json.at("expand_k"), 1.0);
  EXPECT_EQ(json.at("num_kv_heads"), 2);
  EXPECT_EQ(json.at("eos_token_id"), 2);
  const auto file = SafetensorsFile::open(folder / "m/model.safetensors");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->tensors().count("model.layers.2.attn.g_norm_swish_gate.weight"), 1u);
  EXPECT_TRUE(load_tokenizer(folder / "m").ok());
}

TEST(Export, RefusalsNameTheFieldAndTheRule) {
  const auto expect = [](const ModelConfig& c, const char* target, const char* text) {
    const std::string message = refusal(c, target);
    EXPECT_NE(message.find(text), std::string::npos) << "'" << message << "' has no '" << text << "'";
    EXPECT_EQ(message.find('\n'), std::string::npos);
  };
  expect(student("gla", {{"gate_rank", 8}}, true), "fla", "field 'gate_rank' is 8; only 16 can be said there");
  expect(student("gla", {{"rope", 1}}, true), "fla", "field 'rope' is 1; only 0 can be said there");
  for (const char* target : {"bamba", "granite", "gguf"}) expect(student("mamba2", {{"rope", 1}}, true), target, "field 'rope' is 1");
  expect(student("gated_deltanet", {{"rope", 1}}, true), "qwen3_5", "field 'rope' is 1");
  expect(student("slots", {{"slots", 16}}, true), "fla", "its mixer is 'slots'; there are classes for: gla");
  expect(student("gla", {}, true), "gguf", "retort writes no architecture of llama.cpp with the mixer 'gla'");
  expect(student("rwkv7", {}, true), "gguf", "head_dim is 8; llama.cpp's kernel");
  ModelConfig c = rwkv7_student();
  c.plan[1].parts.front() = {"attention", {0}};
  expect(c, "gguf", "layer 1 is attention; every layer there is RWKV-7");
  c = rwkv7_student();
  c.width = 64;
  expect(c, "gguf", "heads x head_dim is 128; it must be the width there, 64");
  c = student("gla", {}, true);
  c.qkv_bias = true;
  expect(c, "fla", "qkv_bias is on; projections there have no biases");
  c = student("gla", {}, false);
  c.rope = {5e5, RopeConfig::Scaling::kLlama3, 8.0, 1.0, 4.0, 8192};
  expect(c, "fla", "rope_scaling of the attention layers is set");
  c = student("gla", {}, true);
  c.plan[1].parts[0].window = {4, 0};
  expect(c, "fla", "layer 1 is mixer 'gla' beside a window of 4");
  c = student("gla", {}, true);
  c.plan[2].parts[0].config["retention"] = 0.9;
  expect(c, "fla", "the configuration of layer 2");
  c = student("gla", {}, true);
  c.plan[0].parts = {Part{"gla", {0}}, Part{"attention", {1}}};
  ASSERT_TRUE(validate_plan(c).ok());
  expect(c, "fla", "layer 0 is 2 parts");
  c = sizes();
  c.rope = {5e5, RopeConfig::Scaling::kLlama3, 8.0, 2.0, 4.0, 8192};
  expect(c, "gguf", "llama3 with other bounds");
}

// A teacher's biases and norms of q and k have a place in few classes; the others say so in the same words, and none drops them.
TEST(Export, BiasesAndNormsFitOrAreRefused) {
  for (const Case& c : cases()) {
    if (is_plain_transformer(c.config) || c.target == "retort") continue;
    SCOPED_TRACE(cat(c.target, " ", c.name));
    ModelConfig with_norms = c.config, with_biases = c.config;
    with_norms.qk_norm = true;
    with_biases.qkv_bias = true;
    EXPECT_NE(refusal(with_norms, c.target).find("qk_norm is on; there are no norms on q and k"), std::string::npos) << refusal(with_norms, c.target);
    const auto& parts = c.config.plan.front().parts;
    if (parts.front().mixer == "mamba2") continue;  // its convolution has biases, which are the teacher's
    EXPECT_NE(refusal(with_biases, c.target).find("qkv_bias is on; projections there have no biases"), std::string::npos) << refusal(with_biases, c.target);
  }
}

TEST(Export, WhatWasTrainedOnElsewhereIsNotReadBackAsTheSame) {
  // One of our tensors of two kv heads, each of their rows twice.
  const ModelConfig config = sizes();
  const SpecsByName specs = specs_by_name(config);
  const std::string ours = "model.layers.0.self_attn.k_proj.weight";
  const ExportTensor tensor{"k", {32, 32}, {ExportPiece::repeat(ours, 2, 2)}, Precision::kQuantised};
  RandomStore store(config, 7);
  auto values = gather(tensor, specs, values_of(store));
  ASSERT_TRUE(values.ok());
  // Blocks of 8 rows, not rows, are repeated.
  const auto& source = store.values(ours);
  EXPECT_EQ((*values)[8 * 32], source[0]);
  EXPECT_EQ((*values)[16 * 32], source[8 * 32]);

  class Stored : public WeightStore {
   public:
    explicit Stored(std::vector<float> v) : values(std::move(v)) {}
    bool has(const std::string&) const override { return true; }
    Result<TensorView> tensor(const std::string& name) const override {
      return TensorView{name, TensorType::kF32, {32, 32}, reinterpret_cast<const std::byte*>(values.data())};
    }
    std::vector<std::string> names() const override { return {"k"}; }
    const std::string& path() const override { return path_; }
    std::vector<float> values;

   private:
    std::string path_ = "(memory)";
  };
  ExportPlan plan;
  plan.tensors = {tensor};
  auto stored = std::make_shared<Stored>(*values);
  auto opened = exported_weights(stored, plan, config);
  ASSERT_TRUE(opened.ok());
  const auto view = (*opened)->tensor(ours);
  ASSERT_TRUE(view.ok()) << view.error().message;
  expect_same(ours, source, *read_f32(*view));
  stored->values[9 * 32] += 1;
  opened = exported_weights(stored, plan, config);
  ASSERT_TRUE(opened.ok());
  EXPECT_NE((*opened)->tensor(ours).error().message.find("rows that are copies of others have changed"), std::string::npos);
}

TEST(Export, ANoteThatIsNoneIsRefused) {
  const auto message = [](const nlohmann::json& said) {
    const auto read = read_exported(said, "m/config.json");
    return read.ok() ? std::string() : read.error().message;
  };
  EXPECT_NE(message("fla").find("retort_export is string; expected an object"), std::string::npos);
  EXPECT_NE(message({{"to", "onnx"}, {"config", {}}}).find("'to' is 'onnx'"), std::string::npos);
  EXPECT_NE(message({{"to", "fla"}}).find("key 'config' is missing"), std::string::npos);
  EXPECT_NE(message({{"to", "fla"}, {"config", {{"model_type", "bert"}}}}).find("'bert' is not supported"), std::string::npos);
  EXPECT_NE(message({{"to", "fla"}, {"config", config_to_json(sizes())}}).find("its mixer is 'attention'"), std::string::npos);
}

}  // namespace
}  // namespace retort
