// A model ready to run: packed weights and, per layer, the parts' equations bound to them.
//
// Layer: runtime. Model is immutable: engines on several threads may share one. An Engine belongs to one thread at a time.
//
//   RETORT_TRY(auto files, open_model(path));
//   RETORT_TRY(auto model, Model::load(files, WeightFormat::kAuto, pool));
//   Engine engine(model, pool);
//   Sequence sequence = model->new_sequence();
//   engine.forward(...)                                  one pass over rows of any number of sequences
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/model_files.h"
#include "runtime/runtime_ops.h"

namespace retort {

class Model {
 public:
  // Maps the file and packs every weight once.
  static Result<std::shared_ptr<const Model>> load(const ModelFiles& files, WeightFormat format, ThreadPool& pool);
  // One layer by itself, without embedding and head: for Engine::forward_hidden alone.
  static Result<std::shared_ptr<const Model>> load_layer(const ModelFiles& files, int layer, WeightFormat format, ThreadPool& pool);

  const ModelConfig& config() const { return config_; }
  const std::shared_ptr<const StateLayout>& layout() const { return layout_; }
  Sequence new_sequence() const { return Sequence(layout_); }
  // What a state file must agree with: fingerprint() of the configuration and a hash of the weights.
  const std::string& identity() const { return identity_; }
  // Packed weights: what a decoding step reads.
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  friend class Engine;
  struct LoadedPart {
    PartShape shape;
    int first_slot = 0;
    std::vector<WeightRef> weights;
    WeightRef output;
    std::function<RuntimeOps::Tensor(RuntimeOps&, const LoadedPart&, const RuntimeOps::Tensor&)> mix;
  };
  struct LoadedLayer {
    WeightRef input_norm, mlp_norm, gate_up, down;
    std::vector<LoadedPart> parts;
    std::vector<WeightRef> fused;  // applied to the layer's normalised input
  };
  struct Loader;
  Model() = default;
  void embed(int token, float* out) const;

  ModelConfig config_;
  std::shared_ptr<const WeightStore> store_;  // the embedding is read from the file's own rows
  std::shared_ptr<const StateLayout> layout_;
  std::deque<ModelWeight> weights_;
  TensorView embedding_;
  WeightRef final_norm_, head_;
  std::vector<LoadedLayer> layers_;
  std::vector<double> frequencies_;
  std::string identity_;
  int64_t weight_bytes_ = 0;
};

enum class WantLogits { kNone, kLast, kAll };

// New tokens of one sequence.
struct BatchItem {
  Sequence* sequence = nullptr;
  std::span<const int> tokens;
  WantLogits logits = WantLogits::kLast;
  Trial* trial = nullptr;  // the state moves when Trial::keep() says how far
};

// Some of the rows that asked for logits; rows are counted over the items in order.
struct LogitsRows {
  int64_t first = 0, count = 0;
  const float* data = nullptr;  // [count, vocabulary], valid until the next pass
};
using LogitsSink = std::function<void(const LogitsRows&)>;

struct EngineOptions {
  // Products with bf16 weights round their inputs to bf16 and use the hardware's dot product: about twice as fast in prefill
  // where there is one, an error of 2^-9 per input. The sums stay fp32. Other weights are not concerned.
  bool bf16_activations = false;
};

class Engine {
 public:
  Engine(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions options = {})
      : model_(std::move(model)), pool_(pool), options_(options) {}

  const Model& model() const { return *model_; }
  ThreadPool& pool() { return pool_; }
  // Runs the items' tokens through the model and moves their states (trial.h: not yet). Each sequence appears once. A token outside the
  // vocabulary is an error, and then nothing has moved. The head runs in blocks of rows: the sink may be called several times.
  Status forward(std::span<const BatchItem> items, const LogitsSink& sink);
  // The layers alone, over the next rows of a sequence: hidden [rows, width] goes in and comes out.
  void forward_hidden(Sequence& sequence, float* hidden, int64_t rows);
  // Called in every pass with each layer's input before its norm, [rows, width].
  using LayerWatcher = std::function<void(int layer, const RuntimeOps::Tensor& hidden)>;
  void watch_layers(LayerWatcher watcher) { watcher_ = std::move(watcher); }
  // Called in every pass with what the layers' matrices are applied to (not the head's).
  void watch_inputs(RuntimeOps::InputWatcher watcher) { input_watcher_ = std::move(watcher); }

 private:
  void run_layers(RuntimeOps& ops, RuntimeOps::Tensor hidden);
  void run_head(std::span<const BatchItem> items, RuntimeOps::Tensor hidden, const LogitsSink& sink);

  std::shared_ptr<const Model> model_;
  ThreadPool& pool_;
  EngineOptions options_;
  Arena arena_;
  OpsScratch scratch_;
  LayerWatcher watcher_;
  RuntimeOps::InputWatcher input_watcher_;
  std::vector<RowSegment> segments_;
  std::vector<int64_t> wanted_;
};

}  // namespace retort
