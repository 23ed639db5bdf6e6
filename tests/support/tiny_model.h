// A Llama with random weights and a byte-level tokenizer, as a Hugging Face folder: a teacher that trains in seconds.
#pragma once

#include <cmath>
#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "io/hf_writer.h"
#include "io/utf8.h"
#include "mixers/list.h"

namespace retort::test {

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.family = "llama";
  c.name = "tiny";
  c.layers = 3, c.width = 32, c.heads = 4, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 48, c.vocab_size = 260, c.context_length = 512;
  c.tie_embeddings = true;
  c.plan = attention_plan(c);
  return c;
}

// Ids 0..255 are the bytes, without merges.
inline std::string byte_tokenizer_json() {
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string symbol;
    utf8::append(symbol, char32_t(shown ? byte : next++));  // GPT-2's visible stand-ins for bytes that are none
    vocab[symbol] = byte;
  }
  return nlohmann::ordered_json{
      {"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", nlohmann::json::array()}, {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr}, {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                 {"fuse_unk", false}, {"byte_fallback", false}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}}.dump();
}

// The same with <|im_start|> and <|im_end|>, ids 256 and 257, and the template that writes them.
inline std::string chat_tokenizer_json() {
  auto json = nlohmann::ordered_json::parse(byte_tokenizer_json());
  int id = 256;
  for (const char* content : {"<|im_start|>", "<|im_end|>"}) {
    json["added_tokens"].push_back({{"id", id++}, {"content", content}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                                    {"normalized", false}, {"special", true}});
  }
  return json.dump();
}
inline std::string chat_tokenizer_config() {
  return nlohmann::ordered_json{
      {"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|im_end|>"},
      {"chat_template", "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"}}.dump();
}

// Of a head of 260 rows the last four, which no token of byte_tokenizer_json() has, become the likeliest whatever comes before: two rows a
// thousand times larger, and their opposites.
inline void let_padding_win(std::span<float> head) {
  const size_t width = head.size() / 260;
  for (size_t i = 0; i < 4 * width; ++i) head[256 * width + i] = (i / width % 2 ? -1000.0f : 1000.0f) * head[i / width / 2 * width + i % width];
}

inline Status write_random_model(const std::string& folder, const ModelConfig& config, uint64_t seed = 1, bool padding_wins = false) {
  HfFolder out;
  out.config = config;
  out.values = [state = seed, padding_wins](const TensorSpec& spec) mutable -> Result<std::vector<float>> {
    std::vector<float> values(size_t(spec.count()));
    const bool norm = spec.name.find("norm") != std::string::npos;
    const float scale = norm ? 0.1f : 1.5f / std::sqrt(float(spec.shape.back()));
    for (auto& v : values) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      v = scale * (float(state >> 40) / float(1 << 23) - 1.0f) + (norm ? 1.0f : 0.0f);
    }
    if (padding_wins && spec.name == "lm_head.weight") let_padding_win(values);
    return values;
  };
  out.extra_files["tokenizer.json"] = byte_tokenizer_json();
  out.extra_files["tokenizer_config.json"] = R"({"tokenizer_class": "PreTrainedTokenizerFast"})";
  return write_hf_folder(folder, out);
}

inline Status write_tiny_model(const std::string& folder, uint64_t seed = 1) { return write_random_model(folder, tiny_config(), seed); }

inline Status write_padded_model(const std::string& folder) {
  ModelConfig config = tiny_config();
  config.tie_embeddings = false;
  return write_random_model(folder, config, 1, true);
}

// Documents with enough structure that a model can learn something of them.
inline std::string tiny_corpus(int documents = 60) {
  std::string out;
  for (int d = 0; d < documents; ++d) {
    std::string text = cat("Chapter ", d, ".");
    for (int s = 0; s < 12; ++s) text += cat(s % 4 ? " " : "\n\n", "The ", d % 3 ? "river" : "forest", " has ", (d * 7 + s) % 10, " stones and a house.");
    out += nlohmann::json{{"text", text}}.dump() + "\n";
  }
  return out;
}

}  // namespace retort::test
