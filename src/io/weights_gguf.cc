#include <cstring>
#include <mutex>
#include <unordered_map>

#include "io/gguf_config.h"
#include "io/weights.h"

namespace retort {
namespace {

class GgufWeights : public WeightStore {
 public:
  GgufWeights(std::shared_ptr<const GgufFile> file, const ModelConfig& config)
      : file_(std::move(file)),
        heads_(config.heads),
        kv_heads_(config.kv_heads),
        interleaved_(gguf_interleaves_rope(config.family)) {}

  bool has(const std::string& name) const override { return find(name) != nullptr; }
  const std::string& path() const override { return file_->path(); }

  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const GgufTensor& tensor : file_->tensors()) {
      if (std::string name = hf_name(tensor.name); !name.empty()) out.push_back(std::move(name));
    }
    return out;
  }

  Result<TensorView> tensor(const std::string& name) const override {
    const GgufTensor* found = find(name);
    if (!found) return invalid(path(), ": tensor '", gguf_name(name).empty() ? name : gguf_name(name), "' is missing");
    TensorView view{name, found->type, found->shape, found->bytes.data()};
    const int heads = interleaved_ ? interleaved_heads(name) : 0;
    if (heads > 0) {
      const int64_t rows = found->shape.front();
      if (rows % (2 * int64_t{heads})) {
        return invalid(path(), ": tensor '", found->name, "' has ", rows, " rows, which ", heads,
                       " heads of even width do not divide");
      }
      view.data = half_split(*found, heads);
    }
    return view;
  }

 private:
  const GgufTensor* find(const std::string& name) const {
    const std::string stored = gguf_name(name);
    return stored.empty() ? nullptr : file_->find_tensor(stored);
  }

  int interleaved_heads(const std::string& name) const {
    if (name.find(".self_attn.q_proj.") != std::string::npos) return heads_;
    if (name.find(".self_attn.k_proj.") != std::string::npos) return kv_heads_;
    return 0;
  }

  // Whole rows move, so blocks of any type do. A bias is a column of rows of one value.
  const std::byte* half_split(const GgufTensor& tensor, int heads) const {
    const std::lock_guard lock(mutex_);
    auto [it, fresh] = reordered_.try_emplace(tensor.name);
    if (fresh) {
      const int64_t rows = tensor.shape.front(), half = rows / heads / 2;
      const size_t row = tensor.bytes.size() / static_cast<size_t>(rows);
      it->second.resize(tensor.bytes.size());
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t head = r / (2 * half), in_head = r % (2 * half);
        const int64_t source = head * 2 * half + 2 * (in_head % half) + in_head / half;
        std::memcpy(it->second.data() + static_cast<size_t>(r) * row,
                    tensor.bytes.data() + static_cast<size_t>(source) * row, row);
      }
    }
    return it->second.data();
  }

  std::shared_ptr<const GgufFile> file_;
  int heads_, kv_heads_;
  bool interleaved_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<std::byte>> reordered_;  // stable addresses
};

}  // namespace

std::shared_ptr<const WeightStore> gguf_weights(std::shared_ptr<const GgufFile> file, const ModelConfig& config) {
  return std::make_shared<GgufWeights>(std::move(file), config);
}

}  // namespace retort
