// The kinds of stages: layer by layer against the teacher's mixers, end to end against its distributions, and over pairs of answers.
//
// Layer: train. Not thread-safe; each step() spreads over the pool. Results do not depend on how threads are scheduled.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/threads.h"
#include "train/reach.h"
#include "train/shards.h"
#include "train/stage.h"
#include "train/torch_model.h"

namespace retort::train {

// A trainable tensor of the student and the named slices of it that checkpoints and optimisers see (gate_up is two of them).
struct Leaf {
  struct Slice {
    std::string name;
    TrainGroup group;
    bool decays;
    int64_t offset, count;
  };
  at::Tensor value;      // f32, contiguous; the very tensor that the student computes with
  at::Tensor gradient;   // made when a stage first trains it
  int layer = 0;         // -1: none
  bool mixer = false;
  std::vector<Slice> slices;
  Share* share = nullptr;   // of several ranks: `gradient` is this rank's share too. Null: all of it is here
};

// What a stage works on. The references live as long as the backend.
struct StageContext {
  const TorchModel& teacher;
  TorchModel& student;
  ThreadPool& pool;
  std::vector<Leaf*> leaves;       // those the stage trains; their slices that it does not train are in no Parameter
  Reached reached{};               // layer-wise stages: what the losses depend on; the rest is in no Parameter either
  std::function<Result<TorchModel>(const std::string& hash)> open_second = {};   // the stage's second teacher, if it has this hash
  Shards* shards = nullptr;        // null: one process
  int64_t tokens = 0;              // logits behind these are padding, which no loss counts; 0: all are tokens
  int rows_at_once = 0;            // rows of a batch that are computed together, the same on all ranks; 0: as many as there are threads

  ProcessGroup& group() const { return shards ? shards->group() : one_process(); }
  // The head's rows that are tokens' [tokens, D].
  at::Tensor token_rows(const at::Tensor& head) const { return tokens > 0 && tokens < head.size(0) ? head.narrow(0, 0, tokens) : head; }
  int together() const { return rows_at_once > 0 ? rows_at_once : pool.size(); }
};

// A gradient of token_rows(head) as one of the head: padding learns nothing.
inline at::Tensor padded_rows(const at::Tensor& gradient, const at::Tensor& head) {
  const int64_t padding = head.size(0) - gradient.size(0);
  return padding > 0 ? at::constant_pad_nd(gradient, {0, 0, 0, padding}) : gradient;
}

// What of a leaf's elements [first, first + count) this rank has, which may be nothing: `value` and, where the leaf has one, its gradient.
struct LeafMemory {
  std::span<float> value, gradient;
};
LeafMemory memory_of(const Leaf& leaf, int64_t first, int64_t count);

// `reached` null: everything.
std::vector<Parameter> stage_parameters(const StageSpec& stage, const std::vector<Leaf*>& leaves, bool layer_wise, const Reached* reached = nullptr);

// End-to-end stages. Whose logits exist at the same time.
constexpr int64_t kLogitPositions = 128;

// The model with to[i] wherever it has from[i].
TorchModel with_tensors(const TorchModel& model, const std::vector<at::Tensor>& from, const std::vector<at::Tensor>& to);

std::unique_ptr<StageRunner> make_align_stage(const StageSpec& stage, StageContext context);
std::unique_ptr<StageRunner> make_logit_stage(const StageSpec& stage, StageContext context);
std::unique_ptr<StageRunner> make_preference_stage(const StageSpec& stage, StageContext context);

}  // namespace retort::train
