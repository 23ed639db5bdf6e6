#include "io/hf_config.h"

#include <gtest/gtest.h>

#include "io/json_fields.h"

namespace retort {
namespace {

using nlohmann::json;

json llama() {
  return json::parse(R"({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-05,
    "rope_theta": 100000, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"})");
}

json with(const char* key, json value) {
  json j = llama();
  j[key] = std::move(value);
  return j;
}

std::string refusal(const json& j) {
  const auto config = config_from_json(j, "config.json");
  if (config.ok()) return "";
  EXPECT_EQ(config.error().code, ErrorCode::kInvalidInput);
  EXPECT_EQ(config.error().message.rfind("config.json: ", 0), 0u) << config.error().message;
  return config.error().message;
}

#define EXPECT_REFUSED(text, ...) EXPECT_NE(refusal(__VA_ARGS__).find(text), std::string::npos) << refusal(__VA_ARGS__)

json student() {
  json j = with("model_type", "retort");
  j["teacher_model_type"] = "llama";
  j["mixers"] = json::parse(R"([[{"mixer": "slots", "kv_heads": [0], "window": 8, "window_sinks": 2, "slots": 16},
    {"mixer": "attention", "kv_heads": [1]}], [{"mixer": "gla", "kv_heads": [0, 1]}]])");
  j["distill_config"] = {{"teacher", "tiny"}};
  j["fingerprint"] = "586da3e3db03e64e";  // another one only where a mixer's fields or tensors change: older students are then refused
  return j;
}

TEST(HfConfig, Llama) {
  const auto c = config_from_json(llama(), "config.json");
  ASSERT_TRUE(c.ok()) << c.error().message;
  EXPECT_EQ(c->head_dim, 8);
  EXPECT_EQ(c->rope.base, 100000.0);
  EXPECT_EQ(c->norm_eps, 1e-5f);
  EXPECT_FALSE(c->tie_embeddings);
  EXPECT_TRUE(is_plain_transformer(*c));
  EXPECT_EQ(config_from_json(with("num_key_value_heads", nullptr), "x")->kv_heads, 4);
}

TEST(HfConfig, EveryRequiredKeyIsNamedWhenMissing) {
  for (const char* key : {"model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size",
                          "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    json j = llama();
    j.erase(key);
    EXPECT_REFUSED(cat("'", key, "' is missing"), j);
    EXPECT_REFUSED(cat("'", key, "' is"), with(key, json::array()));
  }
}

TEST(HfConfig, WrongValues) {
  EXPECT_REFUSED("'gpt2' is not supported; supported: llama", with("model_type", "gpt2"));
  EXPECT_REFUSED("hidden_size", with("hidden_size", "32"));
  EXPECT_REFUSED("hidden_size", with("hidden_size", 32.5));
  EXPECT_REFUSED("hidden_size", with("hidden_size", 18446744073709551615ull));
  EXPECT_REFUSED("num_attention_heads", with("num_attention_heads", 0));
  EXPECT_REFUSED("num_attention_heads", with("num_attention_heads", 3));
  EXPECT_REFUSED("num_hidden_layers", with("num_hidden_layers", 100000));
  EXPECT_REFUSED("layers", with("num_hidden_layers", -1));
  EXPECT_REFUSED("multiple", with("num_key_value_heads", 3));
  EXPECT_REFUSED("hidden_act", with("hidden_act", "gelu"));
  EXPECT_REFUSED("attention_bias", with("attention_bias", true));
  EXPECT_REFUSED("eos_token_id", with("eos_token_id", "2"));
  EXPECT_REFUSED("eos_token_id 999999999 is outside the vocabulary", with("eos_token_id", 999999999));
  EXPECT_REFUSED("bos_token_id 999999999 is outside the vocabulary", with("bos_token_id", 999999999));
  EXPECT_REFUSED("rms_norm_eps", with("rms_norm_eps", 0));
  EXPECT_REFUSED("rope_theta", with("rope_theta", -1));
  EXPECT_REFUSED("yarn", with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}}));
  EXPECT_REFUSED("'factor' is missing", with("rope_scaling", {{"rope_type", "linear"}}));
  EXPECT_REFUSED("rope_scaling", with("rope_scaling", "linear"));
}

TEST(HfConfig, RopeInBothPlaces) {
  const json scaling = {
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  json old_way = scaling, new_way = scaling;
  old_way["rope_type"] = "llama3";
  new_way["rope_type"] = "llama3";
  new_way["rope_theta"] = 100000.0;
  const auto a = config_from_json(with("rope_scaling", old_way), "x");
  json j = with("rope_parameters", new_way);
  j.erase("rope_theta");
  const auto b = config_from_json(j, "x");
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->rope, b->rope);
  EXPECT_EQ(a->rope.scaling, RopeConfig::Scaling::kLlama3);
  const auto linear = config_from_json(with("rope_scaling", {{"type", "linear"}, {"factor", 2}}), "x");
  EXPECT_EQ(linear->rope.factor, 2.0);
}

TEST(HfConfig, Families) {
  EXPECT_TRUE(config_from_json(with("model_type", "qwen2"), "x")->qkv_bias);
  const auto qwen3 = config_from_json(with("model_type", "qwen3"), "x");
  EXPECT_TRUE(qwen3->qk_norm);
  EXPECT_EQ(qwen3->head_dim, 128);
  json mistral = with("model_type", "mistral");
  mistral["sliding_window"] = 64;
  EXPECT_EQ(config_from_json(mistral, "x")->context_length, 64);
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(config_from_json(mistral, "x")->context_length, 128);
}

TEST(HfConfig, GenerationConfigAddsEosIds) {
  const auto c = config_from_json(llama(), "x", {{"eos_token_id", {2, 5}}});
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->eos_ids, (std::vector<int>{2, 5}));
}

TEST(HfConfig, StudentRoundTrip) {
  const auto c = config_from_json(student(), "config.json");
  ASSERT_TRUE(c.ok()) << c.error().message;
  ASSERT_EQ(c->plan[0].parts.size(), 2u);
  EXPECT_EQ(c->plan[0].parts[0].window, (WindowConfig{8, 2}));
  EXPECT_EQ(c->plan[0].parts[0].config.at("slots"), 16);
  const json written = config_to_json(*c);
  EXPECT_EQ(written.at("model_type"), "retort");
  EXPECT_EQ(written.at("rms_norm_eps").dump(), "1e-05");
  const auto again = config_from_json(*parse_json_object("x", written.dump()), "x");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(again->plan, c->plan);
  EXPECT_EQ(again->rope, c->rope);
  EXPECT_EQ(again->provenance, c->provenance);
  EXPECT_EQ(config_to_json(*again), written);
}

TEST(HfConfig, StudentLies) {
  const auto changed = [](const std::string& pointer, json value) {
    json j = student();
    j[json::json_pointer(pointer)] = std::move(value);
    return j;
  };
  EXPECT_REFUSED("unknown mixer 'magic'", changed("/mixers/0/0/mixer", "magic"));
  EXPECT_REFUSED("no field 'colour'", changed("/mixers/0/0/colour", 1));
  EXPECT_REFUSED("owned twice", changed("/mixers/0/0/kv_heads", {0, 1}));
  EXPECT_REFUSED("kv_heads", changed("/mixers/0/0/kv_heads", {-1}));
  EXPECT_REFUSED("mixers[0]", changed("/mixers/0/0/window", "wide"));
  EXPECT_REFUSED("mixers[1] is", changed("/mixers/1", 3));
  EXPECT_REFUSED("3 entries in mixers for 2 layers", changed("/mixers/2", json::array()));
  EXPECT_REFUSED("fingerprint", changed("/fingerprint", "0123456789abcdef"));
  EXPECT_REFUSED("teacher_model_type", changed("/teacher_model_type", "gpt2"));
  json j = student();
  j.erase("mixers");
  EXPECT_REFUSED("'mixers'", j);
}

TEST(HfConfig, AKvHeadThatNoPartOwnsIsNamed) {
  json j = student();
  j["mixers"][1][0]["kv_heads"] = {0};
  EXPECT_REFUSED("mixers[1]: kv head 1 is owned by no part; every one of 0 to 1 must be", j);
}

TEST(HfConfig, AFingerprintThatDiffersSaysWhatDiffersFirst) {
  const json written = config_to_json(*config_from_json(student(), "config.json"));
  EXPECT_EQ(written.at("fingerprint"), student().at("fingerprint")) << "files that were written before must stay readable";
  const auto changed = [&](const std::string& pointer, json value) {
    json j = written;
    j[json::json_pointer(pointer)] = std::move(value);
    return j;
  };
  EXPECT_REFUSED("first difference: layer 1, part 0 (gla): field 'retention' is 0.5, the fingerprint was taken with 0.99",
                 changed("/mixers/1/0/retention", 0.5));
  EXPECT_REFUSED("layer 0, part 0 (slots): field 'window_sinks' is 1, the fingerprint was taken with 2",
                 changed("/mixers/0/0/window_sinks", 1));
  EXPECT_REFUSED("layer 0, part 1: 'mixer' is \"retnet\", the fingerprint was taken with \"attention\"",
                 changed("/mixers/0/1/mixer", "retnet"));
  EXPECT_REFUSED("layer 0 has 1 part, the fingerprint was taken with 2", changed("/mixers/0", written["mixers"][1]));
  EXPECT_REFUSED("key 'rope_theta' is 5000.0, the fingerprint was taken with 100000.0", changed("/rope_theta", 5000));
  EXPECT_REFUSED("key 'head_dim' is 16, the fingerprint was taken with 8", changed("/head_dim", 16));
  EXPECT_REFUSED("key 'teacher_model_type' is \"qwen2\", the fingerprint was taken with \"llama\"",
                 changed("/teacher_model_type", "qwen2"));
  EXPECT_REFUSED("no key was edited: it was written by a Retort with other equations", changed("/fingerprint", "0123456789abcdef"));
  json old = changed("/rope_theta", 5000);
  old.erase("fingerprint_of");
  EXPECT_REFUSED("it was edited, or written by a Retort with other equations", old);
  for (const json& record : {json(3), json::array(), json::object(), json{{"mixers", {1, {2}}}}}) {
    json j = old;
    j["fingerprint_of"] = record;
    EXPECT_REFUSED("fingerprint is 586da3e3db03e64e but", j);
  }
}

TEST(HfConfig, AStudentHasAFingerprint) {
  json j = student();
  j["fingerprint"] = nullptr;
  EXPECT_REFUSED("key 'fingerprint' is missing", j);
  EXPECT_REFUSED("this configuration has \"586da3e3db03e64e\"", j);
  j.erase("fingerprint");
  EXPECT_REFUSED("key 'fingerprint' is missing", j);
}

TEST(HfConfig, DeepJsonIsRefused) {
  EXPECT_FALSE(parse_json_object("x", "{\"a\":" + std::string(1000000, '[')).ok());
  EXPECT_EQ(parse_json_object("x", R"({"a": 1, "a": 2})").error().message, "x: 'a' appears twice");
  EXPECT_EQ(parse_json_object("x", R"({"b": [{"a": 1, "a": 2}]})").error().message, "x: 'a' appears twice");
  EXPECT_TRUE(parse_json_object("x", R"({"b": [{"a": 1}, {"a": 2}]})").ok());
  EXPECT_EQ(parse_json_object("x", R"({"a": 1,})").error().message, "x: not valid JSON at byte 9");
  EXPECT_NE(parse_json_object("x", R"({"a": 1e400})").error().message.find("beyond what 64 bits hold"), std::string::npos);
  EXPECT_EQ(parse_json_object("x", "[1]").error().message, "x: expected a JSON object, found array");
  EXPECT_FALSE(parse_json_object("x", "").ok());
  EXPECT_FALSE(parse_json_object("x", "3").ok());
  EXPECT_NE(parse_json_object("x", R"({"a": [1, 2, 3]})", {.values = 4}).error().message.find("more than 4 values"), std::string::npos);
  EXPECT_NE(parse_json_object("x", R"({"a": 1, "b": 2, "c": 3})", {.key_work = 5}).error().message.find("too many keys"), std::string::npos);
}

}  // namespace
}  // namespace retort
