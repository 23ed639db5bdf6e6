// Weights that no rank holds whole ("ZeRO", Rajbhandari et al. 2020, stage 3; per layer as in "PyTorch FSDP", Zhao et al. 2023): each rank has a
// share of every tensor, and a layer's tensors are whole only while it computes. A rank owns the gradient and the moments of its share.
//
// Layer: train. One thread at a time; gather() and reduce() are collectives (process_group.h). With one process nothing is shared, and all of
// this does nothing.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "train/process_group.h"
#include "train/torch_model.h"

namespace retort::train {

// A tensor's elements [first, first + owned) are this rank's.
struct Share {
  at::Tensor whole;            // the model's own tensor object: without elements while nobody uses it
  at::Tensor mine;             // [part], zeros behind the owned ones
  std::vector<int64_t> sizes;
  int64_t count = 0, part = 0, first = 0, owned = 0;
  int64_t number = 0;          // in the order of add(), which is the same on all ranks
  int users = 0;
};

class Shards {
 public:
  explicit Shards(ProcessGroup& group) : group_(group) {}
  Shards(const Shards&) = delete;
  Shards& operator=(const Shards&) = delete;

  ProcessGroup& group() const { return group_; }
  // From now on a rank holds its share of the tensor. Null when there is one rank only; the same share when it is known already.
  Share* add(const at::Tensor& tensor);
  void add(const TorchModel& model);
  // Forgets what nobody needs any more; of a model all that add() took.
  void remove(const at::Tensor& tensor);
  void remove(const TorchModel& model);
  // Every tensor is whole again on every rank, and nothing is shared. Nobody holds any.
  Status dissolve();

  // Keeps tensors whole.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept : shares_(std::exchange(other.shares_, {})) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(shares_, other.shares_);
      return *this;
    }
    ~Hold();

   private:
    friend class Shards;
    std::vector<Share*> shares_;
  };
  Result<Hold> gather(const std::vector<at::Tensor>& tensors);
  // A gradient, undefined for none, summed over the ranks: this rank's share of it is added to `mine`.
  Status reduce(const Share& share, const at::Tensor& gradient, const at::Tensor& mine);

 private:
  Share* find(const at::Tensor& tensor) const;
  Status fill(Share& share);

  ProcessGroup& group_;
  std::map<const void*, std::unique_ptr<Share>> shares_;   // by tensor object
  int64_t added_ = 0;
};

// The steps of a forward pass (torch_model.h): 0 embeds, 1 to `layers` are the layers, the next one is the last norm.
inline int step_count(const TorchModel& model) { return model.config.layers + 2; }
// What a model has, the head included.
std::vector<at::Tensor> all_weights(const TorchModel& model);
// What a step computes with. The head is no part of one.
std::vector<at::Tensor> step_weights(const TorchModel& model, int step);
std::vector<at::Tensor> step_weights(const std::vector<const TorchModel*>& models, int step);   // of those that have the step

}  // namespace retort::train
