#include "io/weights.h"

#include <algorithm>
#include <cstring>

namespace retort {
namespace {

struct NamePair {
  const char* hf;
  const char* gguf;
};
constexpr NamePair kModelNames[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
constexpr NamePair kLayerNames[] = {{"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
                                    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
                                    {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
                                    {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
                                    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
                                    {"mlp.down_proj", "ffn_down"}};

// "prefix" "N" "." rest -> N and rest.
bool split_layer(const std::string& name, const std::string& prefix, std::string* number, std::string* rest) {
  if (name.compare(0, prefix.size(), prefix) != 0) return false;
  const size_t dot = name.find('.', prefix.size());
  if (dot == std::string::npos || dot == prefix.size()) return false;
  *number = name.substr(prefix.size(), dot - prefix.size());
  *rest = name.substr(dot + 1);
  return number->find_first_not_of("0123456789") == std::string::npos;
}

template <size_t N>
std::string translate(const NamePair (&table)[N], const char* NamePair::*from, const char* NamePair::*to,
                      const std::string& stem) {
  for (const NamePair& pair : table) {
    if (stem == pair.*from) return pair.*to;
  }
  return "";
}

// Both directions: the stem before ".weight" or ".bias" is looked up, layers by their own table.
std::string rename(const std::string& name, const char* NamePair::*from, const char* NamePair::*to,
                   const std::string& layer_from, const std::string& layer_to) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return "";
  const std::string stem = name.substr(0, dot), suffix = name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return "";
  std::string number, rest;
  if (split_layer(stem, layer_from, &number, &rest)) {
    const std::string found = translate(kLayerNames, from, to, rest);
    return found.empty() ? "" : layer_to + number + "." + found + suffix;
  }
  const std::string found = translate(kModelNames, from, to, stem);
  return found.empty() ? "" : found + suffix;
}

// All bits of the exponent are set in what is no number. The largest exponent is found first, which takes no branches.
// Every `stride` bytes lies a number, and `second` bytes after it another.
template <class Bits>
int64_t first_not_finite(const std::byte* data, int64_t count, Bits exponent, int64_t stride = sizeof(Bits), int64_t second = 0) {
  const auto at = [&](int64_t i) {
    Bits bits, other;
    std::memcpy(&bits, data + i * stride, sizeof bits);
    std::memcpy(&other, data + i * stride + second, sizeof other);
    return std::max(Bits(bits & exponent), Bits(other & exponent));
  };
  Bits largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, at(i));
  if (largest != exponent) return -1;
  int64_t i = 0;
  while (at(i) != exponent) ++i;
  return i;
}

}  // namespace

std::string gguf_name(const std::string& name) {
  return rename(name, &NamePair::hf, &NamePair::gguf, "model.layers.", "blk.");
}
std::string hf_name(const std::string& name) {
  return rename(name, &NamePair::gguf, &NamePair::hf, "blk.", "model.layers.");
}

int64_t TensorView::count() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

Status check_finite(const TensorView& view) {
  int64_t found = -1;
  if (view.type == TensorType::kF32) found = first_not_finite<uint32_t>(view.data, view.count(), 0x7f800000u);
  if (view.type == TensorType::kF16) found = first_not_finite<uint16_t>(view.data, view.count(), 0x7c00u);
  if (view.type == TensorType::kBF16) found = first_not_finite<uint16_t>(view.data, view.count(), 0x7f80u);
  const auto& info = tensor_type_info(view.type);
  if (info.block_values > 1) {
    // A block's numbers in F16, a scale or two: first in it, in Q6_K last.
    const bool two = view.type == TensorType::kQ4_1 || view.type == TensorType::kQ5_1 || view.type == TensorType::kQ4_K || view.type == TensorType::kQ5_K;
    const std::byte* scales = view.data + (view.type == TensorType::kQ6_K ? info.block_bytes - 2 : 0);
    const int64_t stride = info.block_bytes, second = two ? 2 : 0;
    const int64_t block = first_not_finite<uint16_t>(scales, view.count() / info.block_values, 0x7c00u, stride, second);
    if (block >= 0) found = block * info.block_values;
  }
  if (found < 0) return {};
  return invalid("tensor '", view.name, "': value ", found, " of ", view.count(), " is NaN or infinite; its training diverged, or the file is damaged");
}

Result<std::vector<float>> read_f32(const TensorView& view) {
  const int64_t count = view.count();
  if (count < 0 || count % tensor_type_info(view.type).block_values) {
    return internal_error("tensor '", view.name, "': ", count, " values do not divide into blocks of ",
                          tensor_type_name(view.type));
  }
  std::vector<float> out(static_cast<size_t>(count));
  dequantise_row(view.type, view.data, out.data(), count);
  return out;
}

}  // namespace retort
