// Writes GGUF bytes for tests, right or deliberately wrong. Knows the format from its grammar (io/gguf_parser.h), not
// from the reader.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "io/quant_blocks.h"

namespace retort::test {

class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;
  int64_t claim_tensors = -1, claim_pairs = -1;  // counts in the header; -1: the truth

  struct Tensor {
    std::string name;
    std::vector<uint64_t> sizes;  // innermost first, as stored
    uint32_t type;
    uint64_t offset;
    std::string data;
  };
  std::vector<Tensor> tensors;

  template <class T>
  static std::string raw(T value) {
    std::string out(sizeof value, '\0');
    std::memcpy(out.data(), &value, sizeof value);
    return out;
  }
  static std::string string(const std::string& s) { return raw<uint64_t>(s.size()) + s; }

  void pair(const std::string& key, uint32_t kind, const std::string& value) {
    pairs_ += string(key) + raw(kind) + value;
    ++pair_count_;
  }
  void text(const std::string& key, const std::string& value) { pair(key, 8, string(value)); }
  void u32(const std::string& key, uint32_t value) { pair(key, 4, raw(value)); }
  void f32(const std::string& key, float value) { pair(key, 6, raw(value)); }

  // Shape outermost first. The next aligned offset.
  Tensor& tensor(const std::string& name, const std::vector<int64_t>& shape, TensorType type, std::string data) {
    Tensor t{name, {shape.rbegin(), shape.rend()}, static_cast<uint32_t>(type), end_, std::move(data)};
    end_ = (end_ + t.data.size() + alignment - 1) / alignment * alignment;
    tensors.push_back(std::move(t));
    return tensors.back();
  }

  std::string bytes() const {
    std::string out = "GGUF" + raw(version) +
                      raw<uint64_t>(claim_tensors >= 0 ? uint64_t(claim_tensors) : tensors.size()) +
                      raw<uint64_t>(claim_pairs >= 0 ? uint64_t(claim_pairs) : pair_count_) + pairs_;
    for (const Tensor& t : tensors) {
      out += string(t.name) + raw<uint32_t>(uint32_t(t.sizes.size()));
      for (uint64_t s : t.sizes) out += raw(s);
      out += raw(t.type) + raw(t.offset);
    }
    pad(out);
    std::string data;
    for (const Tensor& t : tensors) {
      pad(data);
      data += t.data;
    }
    return out + data;
  }

 private:
  void pad(std::string& s) const { s.append((alignment - s.size() % alignment) % alignment, '\0'); }
  std::string pairs_;
  uint64_t pair_count_ = 0, end_ = 0;
};

inline std::string f32_bytes(const std::vector<float>& values) {
  std::string out(values.size() * sizeof(float), '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

// A model of one layer: width 32, 4 heads of 8 over 2 kv heads, MLP 64, 16 tokens, tied. Value i of a tensor is i /
// 100.
inline GgufBuilder tiny_gguf(const std::string& architecture = "llama") {
  GgufBuilder b;
  b.text("general.architecture", architecture);
  b.text("general.name", "tiny");
  const std::string p = architecture + ".";
  b.u32(p + "block_count", 1);
  b.u32(p + "context_length", 128);
  b.u32(p + "embedding_length", 32);
  b.u32(p + "feed_forward_length", 64);
  b.u32(p + "attention.head_count", 4);
  b.u32(p + "attention.head_count_kv", 2);
  b.f32(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  b.f32(p + "rope.freq_base", 10000.f);
  b.u32("tokenizer.ggml.bos_token_id", 1);
  b.u32("tokenizer.ggml.eos_token_id", 2);
  b.pair("tokenizer.ggml.tokens", 9,
         GgufBuilder::raw<uint32_t>(8) + GgufBuilder::raw<uint64_t>(2) + GgufBuilder::string("a") +
             GgufBuilder::string("b"));
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (int64_t s : shape) count *= s;
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 100.f;
    b.tensor(name, shape, TensorType::kF32, f32_bytes(values));
  };
  add("token_embd.weight", {16, 32});
  add("blk.0.attn_norm.weight", {32});
  add("blk.0.attn_q.weight", {32, 32});
  add("blk.0.attn_k.weight", {16, 32});
  add("blk.0.attn_v.weight", {16, 32});
  add("blk.0.attn_output.weight", {32, 32});
  if (architecture == "qwen2") {
    add("blk.0.attn_q.bias", {32});
    add("blk.0.attn_k.bias", {16});
    add("blk.0.attn_v.bias", {16});
  }
  if (architecture == "qwen3") {
    add("blk.0.attn_q_norm.weight", {8});
    add("blk.0.attn_k_norm.weight", {8});
  }
  add("blk.0.ffn_norm.weight", {32});
  add("blk.0.ffn_gate.weight", {64, 32});
  add("blk.0.ffn_up.weight", {64, 32});
  add("blk.0.ffn_down.weight", {32, 64});
  add("output_norm.weight", {32});
  return b;
}

}  // namespace retort::test
