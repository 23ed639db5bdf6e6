// A model's tensors by their Hugging Face names, whatever file they come from.
//
// Layer: io. Thread-safe. Views live as long as the store.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/quant_blocks.h"
#include "io/safetensors.h"
#include "model/config.h"

namespace retort {

struct TensorView {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;       // outermost first: [out, in], [n], ...
  const std::byte* data = nullptr;  // rows of shape.back() values, contiguous; aligned to an element of F32, F16, BF16

  int64_t count() const;
  int64_t bytes() const { return row_bytes(type, count()); }
};

class WeightStore {
 public:
  virtual ~WeightStore() = default;
  virtual bool has(const std::string& name) const = 0;
  // A tensor that is not there, or not of a type for weights, is an error that names the file.
  virtual Result<TensorView> tensor(const std::string& name) const = 0;
  virtual std::vector<std::string> names() const = 0;
  // What it was read from, for messages.
  virtual const std::string& path() const = 0;
};

// All values of a tensor, outermost first.
Result<std::vector<float>> read_f32(const TensorView& view);

// An error that names the first value of a tensor of F32, F16 or BF16 that is NaN or infinite: a training that diverged, or a damaged
// file. Blocks are taken as they are.
Status check_finite(const TensorView& view);

// FOLDER/model.safetensors, or the shards that FOLDER/model.safetensors.index.json lists.
Result<std::shared_ptr<const WeightStore>> open_hf_weights(const std::string& folder);

// Zero-copy but for q and k of families whose rows GGUF interleaves: those are put back into half-split order on first
// use.
std::shared_ptr<const WeightStore> gguf_weights(std::shared_ptr<const GgufFile> file, const ModelConfig& config);

// "model.layers.3.self_attn.q_proj.weight" <-> "blk.3.attn_q.weight"; "" when the other side has no such tensor.
std::string gguf_name(const std::string& hf_name);
std::string hf_name(const std::string& gguf_name);

}  // namespace retort
