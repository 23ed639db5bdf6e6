#include "io/model_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "gguf_builder.h"
#include "io/hf_writer.h"
#include "mixers/list.h"
#include "test_files.h"

namespace retort {
namespace {

using test::TempFolder;

TEST(ModelFiles, RealTeacher) {
  const std::string path = test::teacher_path();
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there (set RETORT_TEACHER)";
  const auto model = open_model(path);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const ModelConfig& c = model->config;
  EXPECT_EQ(c.family, "llama");
  EXPECT_EQ(c.layers, 30);
  EXPECT_EQ(c.width, 576);
  EXPECT_EQ(c.heads, 9);
  EXPECT_EQ(c.kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.mlp_width, 1536);
  EXPECT_EQ(c.vocab_size, 49152);
  EXPECT_EQ(c.context_length, 8192);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.rope.base, 100000.0);
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(c.bos_id, 1);
  EXPECT_EQ(c.eos_ids, std::vector<int>{2});
  EXPECT_TRUE(is_plain_transformer(c));
  EXPECT_EQ(model->weights->names().size(), 272u);
  const auto q = model->weights->tensor("model.layers.7.self_attn.q_proj.weight");
  ASSERT_TRUE(q.ok());
  EXPECT_EQ(q->type, TensorType::kQ4_1);
  EXPECT_EQ(q->shape, (std::vector<int64_t>{576, 576}));
}

std::string refusal(const std::string& path) {
  const auto model = open_model(path);
  if (model.ok()) return "";
  EXPECT_EQ(model.error().code, ErrorCode::kInvalidInput);
  return model.error().message;
}

std::string write_gguf(const TempFolder& folder, const test::GgufBuilder& builder) {
  test::write_file(folder / "tiny.gguf", builder.bytes());
  return folder / "tiny.gguf";
}

TEST(ModelFiles, LlamaGgufRowsAreHalfSplit) {
  const TempFolder folder;
  const auto model = open_model(write_gguf(folder, test::tiny_gguf("llama")));
  ASSERT_TRUE(model.ok()) << model.error().message;
  // Stored row r holds the values 32r/100, ...; heads of 8 rows: half-split row j of a head is stored at 2j, j + 4 at
  // 2j + 1.
  const auto view = model->weights->tensor("model.layers.0.self_attn.k_proj.weight");
  ASSERT_TRUE(view.ok());
  const auto values = *read_f32(*view);
  const int stored[] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
  for (int r = 0; r < 16; ++r)
    EXPECT_EQ(values[static_cast<size_t>(r) * 32 + 1], static_cast<float>(stored[r] * 32 + 1) / 100.f) << r;
  const auto v = *read_f32(*model->weights->tensor("model.layers.0.self_attn.v_proj.weight"));
  EXPECT_EQ(v[32], 0.32f);
}

TEST(ModelFiles, QwenGgufRowsStay) {
  const TempFolder folder;
  const auto model = open_model(write_gguf(folder, test::tiny_gguf("qwen2")));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*read_f32(*model->weights->tensor("model.layers.0.self_attn.q_proj.weight")))[32], 0.32f);
  EXPECT_EQ((*read_f32(*model->weights->tensor("model.layers.0.self_attn.q_proj.bias")))[1], 0.01f);
}

TEST(ModelFiles, MissingAndMisshapenTensorsAreNamed) {
  const TempFolder folder;
  auto b = test::tiny_gguf();
  b.tensors[4].name = "blk.0.attn_w.weight";
  EXPECT_NE(refusal(write_gguf(folder, b))
                .find("'model.layers.0.self_attn.v_proj.weight' is missing; expected shape [16, 32]"),
            std::string::npos);
  b = test::tiny_gguf();
  std::swap(b.tensors[4].sizes[0], b.tensors[4].sizes[1]);
  EXPECT_NE(refusal(write_gguf(folder, b)).find("has shape [32, 16]; expected [16, 32]"), std::string::npos);
  b = test::tiny_gguf();
  b.tensors[3].sizes = {64, 8};
  EXPECT_NE(refusal(write_gguf(folder, b)).find("has shape [8, 64]; expected [16, 32]"), std::string::npos);
}

TEST(ModelFiles, NoSuchModel) {
  const TempFolder folder;
  EXPECT_NE(refusal(folder / "nothing").find("no such file"), std::string::npos);
  EXPECT_NE(refusal(folder.str()).find("no config.json in this folder, so it is no model"), std::string::npos);
  std::filesystem::create_directories(folder / "run/student");
  std::filesystem::create_directories(folder / "run/checkpoints");
  test::write_file(folder / "run/student/config.json", "{}");
  EXPECT_NE(refusal(folder / "run").find("no config.json in this folder; there is one in " + (folder / "run/student")), std::string::npos) << refusal(folder / "run");
  test::write_file(folder / "empty.gguf", "");
  EXPECT_NE(refusal(folder / "empty.gguf").find("not a GGUF file"), std::string::npos);
}

ModelConfig tiny_student() {
  ModelConfig c;
  c.layers = 2;
  c.width = 32;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.mlp_width = 64;
  c.vocab_size = 16;
  c.context_length = 128;
  c.tie_embeddings = true;
  c.eos_ids = {2, 3};
  c.plan = attention_plan(c);
  c.plan[1].parts[0].mixer = "slots";
  c.plan[1].parts[0].window = {8, 2};
  c.plan[1].parts[0].config = {{"slots", 4}};
  c.provenance = {{"teacher", "tiny"}};
  EXPECT_TRUE(validate_plan(c).ok());
  return c;
}

HfFolder tiny_folder() {
  HfFolder out;
  out.config = tiny_student();
  out.values = [](const TensorSpec& spec) -> Result<std::vector<float>> {
    std::vector<float> values(static_cast<size_t>(spec.count()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(i % 256) + static_cast<float>(spec.name.size());
    return values;
  };
  out.extra_files["tokenizer.json"] = "{}";
  return out;
}

TEST(HfWriter, WrittenModelOpens) {
  const TempFolder folder;
  HfFolder out = tiny_folder();
  out.matrices = TensorType::kBF16;
  const std::string path = folder / "deep/student";
  ASSERT_TRUE(write_hf_folder(path, out).ok());
  ASSERT_TRUE(write_hf_folder(path, out).ok()) << "a folder that is there is replaced";
  const auto model = open_model(path);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->config.plan, out.config.plan);
  EXPECT_EQ(model->config.eos_ids, out.config.eos_ids);
  EXPECT_EQ(fingerprint(model->config), fingerprint(out.config));
  EXPECT_EQ(test::read_file(path + "/tokenizer.json"), "{}");
  for (const TensorSpec& spec : model_tensors(out.config)) {
    const auto view = model->weights->tensor(spec.name);
    ASSERT_TRUE(view.ok());
    EXPECT_EQ(view->type, spec.floor == Precision::kF32 ? TensorType::kF32 : TensorType::kBF16) << spec.name;
    if (spec.floor == Precision::kF32) {
      EXPECT_EQ(*read_f32(*view), *out.values(spec)) << spec.name;
    }
  }
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder / "deep")) ++entries;
  EXPECT_EQ(entries, 1u) << "no temporary folder stays";
}

TEST(HfWriter, FailureLeavesTheOldFolder) {
  const TempFolder folder;
  HfFolder out = tiny_folder();
  ASSERT_TRUE(write_hf_folder(folder / "m", out).ok());
  out.values = [](const TensorSpec&) -> Result<std::vector<float>> { return io_error("broken"); };
  EXPECT_FALSE(write_hf_folder(folder / "m", out).ok());
  EXPECT_TRUE(open_model(folder / "m").ok());
  EXPECT_FALSE(write_hf_folder(folder / "n", out).ok());
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.str())) ++entries;
  EXPECT_EQ(entries, 1u);
}

TEST(HfWriter, AFolderWithOtherFilesIsLeftAlone) {
  const TempFolder folder;
  ASSERT_TRUE(write_hf_folder(folder / "m", tiny_folder()).ok());
  EXPECT_TRUE(write_hf_folder(folder / "m", tiny_folder()).ok());
  test::write_file(folder / "m/notes.txt", "mine");
  const auto status = write_hf_folder(folder / "m", tiny_folder());
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("'notes.txt'"), std::string::npos) << status.error().message;
  EXPECT_TRUE(std::filesystem::exists(folder / "m/notes.txt"));
  EXPECT_FALSE(write_hf_folder(folder.str(), tiny_folder()).ok()) << "a folder of folders";
  EXPECT_TRUE(std::filesystem::exists(folder / "m/config.json"));
}

TEST(HfWeights, Shards) {
  const TempFolder folder;
  ASSERT_TRUE(write_hf_folder(folder / "m", tiny_folder()).ok());
  const std::string path = folder / "m";
  const auto whole = open_model(path);
  ASSERT_TRUE(whole.ok());
  nlohmann::json map;
  std::vector<SafeTensorSource> shards[2];
  const auto names = whole->weights->names();
  for (size_t i = 0; i < names.size(); ++i) {
    const auto view = *whole->weights->tensor(names[i]);
    shards[i % 2].push_back(
        SafeTensorSource::from_f32(names[i], view.shape, TensorType::kF32, [view] { return read_f32(view); }));
    map[names[i]] = i % 2 ? "b.safetensors" : "a.safetensors";
  }
  ASSERT_TRUE(write_safetensors(path + "/a.safetensors", shards[0]).ok());
  ASSERT_TRUE(write_safetensors(path + "/b.safetensors", shards[1]).ok());
  std::filesystem::remove(path + "/model.safetensors");
  const std::string index = path + "/model.safetensors.index.json";
  test::write_file(index, nlohmann::json{{"weight_map", map}}.dump());
  const auto split = open_model(path);
  ASSERT_TRUE(split.ok()) << split.error().message;
  EXPECT_EQ(split->weights->names(), names);

  map[names[0]] = "b.safetensors";
  test::write_file(index, nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_NE(refusal(path).find("the index says it is here"), std::string::npos);
  map[names[0]] = "../a.safetensors";
  test::write_file(index, nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_NE(refusal(path).find("same folder"), std::string::npos);
  test::write_file(index, "{}");
  EXPECT_NE(refusal(path).find("'weight_map' is missing"), std::string::npos);
  std::filesystem::remove(index);
  EXPECT_NE(refusal(path).find("neither model.safetensors"), std::string::npos);
}

TEST(HfWeights, WrongDtypeIsNamed) {
  const TempFolder folder;
  ASSERT_TRUE(write_hf_folder(folder / "m", tiny_folder()).ok());
  const auto model = open_model(folder / "m");
  ASSERT_TRUE(model.ok());
  std::vector<SafeTensorSource> sources;
  for (const std::string& name : model->weights->names()) {
    const auto view = *model->weights->tensor(name);
    if (name == "model.norm.weight") {
      sources.push_back({name, "I32", view.shape, [view]() -> Result<std::vector<std::byte>> {
                           return std::vector<std::byte>(static_cast<size_t>(view.bytes()));
                         }});
    } else {
      sources.push_back(
          SafeTensorSource::from_f32(name, view.shape, TensorType::kF32, [view] { return read_f32(view); }));
    }
  }
  ASSERT_TRUE(write_safetensors(folder / "m/model.safetensors", sources).ok());
  EXPECT_NE(refusal(folder / "m").find("'model.norm.weight' is I32; weights may be"), std::string::npos);
}

TEST(Weights, ValuesThatAreNoNumbersAreFound) {
  const auto message = [](TensorType type, const auto& bits) {
    const TensorView view{"w", type, {int64_t(bits.size())}, reinterpret_cast<const std::byte*>(bits.data())};
    const Status status = check_finite(view);
    return status.ok() ? std::string() : status.error().message;
  };
  // The largest number, then an infinity, then NaN.
  for (uint32_t bad : {0xff800000u, 0x7fc00001u}) {
    EXPECT_EQ(message(TensorType::kF32, std::vector<uint32_t>{0x7f7fffffu, 0, 0x80000000u}), "");
    EXPECT_NE(message(TensorType::kF32, std::vector<uint32_t>{0, 0x7f7fffffu, bad}).find("'w': value 2 of 3 is NaN"), std::string::npos);
  }
  EXPECT_EQ(message(TensorType::kBF16, std::vector<uint16_t>{0x7f7f, 0x7c00}), "");
  EXPECT_NE(message(TensorType::kBF16, std::vector<uint16_t>{0, 0xff80}).find("value 1 of 2"), std::string::npos);
  EXPECT_EQ(message(TensorType::kF16, std::vector<uint16_t>{0x7bff, 0x3c00}), "");
  EXPECT_NE(message(TensorType::kF16, std::vector<uint16_t>{0x7c01, 0}).find("value 0 of 2"), std::string::npos);
}

// In blocks the scales can be none: whatever of a block's bytes makes its values no numbers is found, whatever does not is let through.
TEST(Weights, ScalesThatAreNoNumbersAreFound) {
  for (const auto& info : kTensorTypes) {
    if (info.block_values == 1) continue;
    std::vector<std::byte> blocks(size_t(3 * info.block_bytes));
    const TensorView view{"w", info.type, {3 * info.block_values}, blocks.data()};
    EXPECT_TRUE(check_finite(view).ok()) << info.name;
    for (int at = 0; at < info.block_bytes; at += 2) {
      std::byte* const place = blocks.data() + info.block_bytes + at;
      const uint16_t nan = 0x7e00, zero = 0;
      std::memcpy(place, &nan, 2);
      const auto values = read_f32(view);
      ASSERT_TRUE(values.ok());
      const bool finite = std::all_of(values->begin(), values->end(), [](float v) { return std::isfinite(v); });
      EXPECT_EQ(check_finite(view).ok(), finite) << info.name << ", byte " << at;
      if (!finite) EXPECT_NE(check_finite(view).error().message.find(cat("value ", info.block_values, " of ")), std::string::npos);
      std::memcpy(place, &zero, 2);
    }
  }
}

TEST(WeightNames, BothWays) {
  for (const char* name :
       {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.12.self_attn.q_proj.bias",
        "model.layers.0.mlp.down_proj.weight", "model.layers.3.post_attention_layernorm.weight"}) {
    EXPECT_EQ(hf_name(gguf_name(name)), name);
  }
  EXPECT_EQ(gguf_name("model.layers.3.self_attn.o_proj.weight"), "blk.3.attn_output.weight");
  EXPECT_EQ(gguf_name("model.layers.x.self_attn.o_proj.weight"), "");
  EXPECT_EQ(hf_name("rope_freqs.weight"), "");
}

}  // namespace
}  // namespace retort
