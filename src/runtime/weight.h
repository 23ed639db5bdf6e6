// A tensor of the model as the runtime holds it: packed for products, plain fp32 for everything else.
//
// Layer: runtime. Immutable after loading.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/weights.h"
#include "kernels/packed_matrix.h"
#include "model/tensor_spec.h"

namespace retort {

// How weights above their precision floor are stored (--weights).
enum class WeightFormat {
  kAuto,   // as in the file: quantised blocks and 16-bit floats stay what they are
  kF32,    // the file's values, exactly
  kBF16, kQ8_0, kQ4_0, kQ4_1,
};
Result<WeightFormat> parse_weight_format(const std::string& name);
const char* weight_format_names();

struct ModelWeight {
  std::string name;                     // the tensor's; of gate and up together, gate's
  std::vector<int64_t> shape;
  std::vector<float> values;            // tensors whose floor is fp32
  std::vector<float> transposed;        // [in, out] of those that are as narrow as a convolution
  std::vector<PackedMatrix> matrices;   // [out, in]: one; [heads, out, in]: one per head

  int64_t bytes() const;
};

// What RuntimeOps::Weight is: absent tensors convert to false.
class WeightRef {
 public:
  WeightRef() = default;
  explicit WeightRef(const ModelWeight* weight) : weight_(weight) {}
  explicit operator bool() const { return weight_ != nullptr; }
  const ModelWeight* operator->() const { return weight_; }
  bool operator==(const WeightRef&) const = default;

 private:
  const ModelWeight* weight_ = nullptr;
};

Result<ModelWeight> load_weight(const TensorView& view, Precision floor, WeightFormat format, ThreadPool& pool);
// Both halves of a gated MLP, interleaved for Epilogue::kSiluPairs.
Result<ModelWeight> load_gate_up(const TensorView& gate, const TensorView& up, WeightFormat format, ThreadPool& pool);

}  // namespace retort
