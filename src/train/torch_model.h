// A model in torch: the teacher, and every student. Teacher and student share all that is not a mixer until a stage trains it.
//
// Layer: train. Forward passes only read the model: several threads may run them at once.
#pragma once

#include <functional>
#include <memory>

#include "io/model_files.h"
#include "train/stage.h"
#include "train/torch_ops.h"

namespace retort::train {

// A part with its weights. `values` follows `table`; absent tensors are undefined. Trained ones are f32 leaves, frozen ones may be bf16.
struct PartWeights {
  Part part;
  PartShape shape;
  std::string prefix;
  std::vector<TensorSpec> table;
  std::vector<at::Tensor> values;
};

// What is not a mixer.
struct Body {
  struct Layer {
    at::Tensor input_norm, post_norm;   // [D] f32
    at::Tensor gate_up;                 // [2F, D]: gate rows, then up rows
    at::Tensor down;                    // [D, F]
  };
  at::Tensor embedding;                 // [V, D]
  at::Tensor final_norm;                // [D]
  at::Tensor head;                      // [V, D]; the embedding itself when tied
  std::vector<Layer> layers;
};

struct TorchModel {
  ModelConfig config;
  Numeric numeric = Numeric::kFast;
  Body body;
  std::vector<std::vector<PartWeights>> layers;

  // The type that activations between operations have.
  at::ScalarType wide() const { return wide_; }
  at::ScalarType wide_ = at::kFloat;
};

// Parts with tables but no values.
std::vector<std::vector<PartWeights>> empty_parts(const ModelConfig& config);

// Body and attention of a teacher, or any model folder. kFast: matrices in bf16. `type` is what kExact computes in.
Result<TorchModel> load_model(const ModelFiles& files, Numeric numeric, at::ScalarType type = at::kFloat);

// A part's share of the layer's output [T, D]; or, with `before_output`, its heads' outputs [T, heads * V] that the output projection takes.
at::Tensor run_part(const PartWeights& part, const at::Tensor& x, const Rows& rows, Numeric numeric, bool before_output = false);
// All parts of a layer.
at::Tensor run_mixers(const TorchModel& model, int layer, const at::Tensor& x, const Rows& rows);

// What a layer's mixer met: the residual stream before it, its normed input, its output. [T, D] each
struct LayerView {
  int layer;
  const at::Tensor &residual, &input, &output;
};
using LayerHook = std::function<void(const LayerView&)>;

// A forward pass in steps: token ids -> the residual stream [T, D], through a layer, and after the last norm. The hook may be empty.
at::Tensor embed(const TorchModel& model, std::span<const int32_t> tokens);
at::Tensor run_layer(const TorchModel& model, int layer, const at::Tensor& residual, const Rows& rows, const LayerHook& hook = {});
at::Tensor final_norm(const TorchModel& model, const at::Tensor& residual);
// All of them.
at::Tensor run_model(const TorchModel& model, std::span<const int32_t> tokens, const Rows& rows, const LayerHook& hook = {});
// residual + MLP(norm(residual)) of one layer.
at::Tensor run_mlp(const TorchModel& model, int layer, const at::Tensor& residual);

// Sequences of the rows [first, first + count) of a batch, counted from the first one's start.
Rows batch_rows(const TorchModel& model, const Batch& batch, int first, int count);

// -log p of every token given those before it in its sequence, in nats; -1 for the first of each. [T]
std::vector<float> token_losses(const TorchModel& model, std::span<const int32_t> tokens, const Rows& rows);

}  // namespace retort::train
