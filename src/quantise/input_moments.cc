#include "quantise/input_moments.h"

#include <algorithm>

namespace retort {
namespace {

constexpr int64_t kPassRows = 256;

InputMoments empty_moments(int columns) {
  InputMoments moments;
  for (int first = 0; first < columns; first += MomentBlock::kWidest) {
    MomentBlock block{first, std::min(MomentBlock::kWidest, columns - first), {}};
    block.sum.resize(size_t(block.count) * size_t(block.count));
    moments.blocks.push_back(std::move(block));
  }
  return moments;
}

// sum += X^T X of columns [from, from + columns) of x.
void add_rows(const RuntimeOps::Tensor& x, int from, int64_t rows, ThreadPool& pool, InputMoments& moments) {
  for (MomentBlock& block : moments.blocks) {
    pool.parallel_for(block.count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* sum = block.sum.data() + i * block.count;
        for (int64_t r = 0; r < rows; ++r) {
          const float* row = x.row(r) + from + block.first;
          const float factor = row[i];
          for (int64_t j = i; j < block.count; ++j) sum[j] += factor * row[j];
        }
      }
    });
  }
  moments.rows += rows;
}

// "model.layers.0.mlp.up_proj.weight" for gate_proj's, which the runtime holds as one matrix.
std::string other_half(std::string name) {
  const std::string gate = "mlp.gate_proj.";
  const size_t at = name.find(gate);
  return at == std::string::npos ? "" : name.replace(at, gate.size(), "mlp.up_proj.");
}

}  // namespace

class MomentCollector {
 public:
  explicit MomentCollector(ThreadPool& pool) : pool_(pool) {}

  void see(std::span<const WeightRef> weights, const RuntimeOps::Tensor& x, int64_t rows) {
    // Matrices of one call share their input; those that stay f32 are of no interest.
    std::vector<const ModelWeight*> rounded;
    for (const WeightRef& weight : weights) {
      if (weight->values.empty()) rounded.push_back(&*weight.operator->());
    }
    if (rounded.empty()) return;
    auto& moments = found_.by_tensor_[rounded.front()->name];
    if (moments.empty()) start(*rounded.front(), moments);
    for (const ModelWeight* other : rounded) {
      found_.by_tensor_[other->name] = moments;
      if (const std::string up = other_half(other->name); !up.empty()) found_.by_tensor_[up] = moments;
    }
    const int columns = int(rounded.front()->shape.back());
    for (int h = 0; h < x.columns / columns; ++h) {  // one matrix may serve all heads
      add_rows(x, h * columns, rows, pool_, *moments[moments.size() == 1 ? 0 : size_t(h)]);
    }
  }

  MomentsByTensor take() { return std::move(found_); }

 private:
  static void start(const ModelWeight& weight, std::vector<std::shared_ptr<InputMoments>>& moments) {
    const int columns = int(weight.shape.back());
    for (size_t h = 0; h < weight.matrices.size(); ++h) moments.push_back(std::make_shared<InputMoments>(empty_moments(columns)));
  }

  ThreadPool& pool_;
  MomentsByTensor found_;
};

std::span<const std::shared_ptr<InputMoments>> MomentsByTensor::of(const std::string& tensor) const {
  const auto found = by_tensor_.find(tensor);
  if (found == by_tensor_.end()) return {};
  return found->second;
}

Result<MomentsByTensor> measure_inputs(Engine& engine, std::span<const int> tokens, int64_t window, const std::function<bool(int64_t)>& progress) {
  MomentCollector collector(engine.pool());
  engine.watch_inputs([&](std::span<const WeightRef> weights, const RuntimeOps::Tensor& x, int64_t rows) { collector.see(weights, x, rows); });
  Sequence sequence = engine.model().new_sequence();
  Status status;
  for (int64_t done = 0; done < int64_t(tokens.size()) && status.ok();) {
    const int64_t in_window = done % window;
    if (in_window == 0) sequence.reset();
    const int64_t count = std::min({kPassRows, window - in_window, int64_t(tokens.size()) - done});
    const BatchItem item{&sequence, tokens.subspan(size_t(done), size_t(count)), WantLogits::kNone};
    status = engine.forward({&item, 1}, {});
    done += count;
    if (status.ok() && progress && !progress(done)) status = Error{ErrorCode::kInterrupted, "interrupted"};
  }
  engine.watch_inputs({});
  if (!status.ok()) return status.error();
  MomentsByTensor found = collector.take();
  found.tokens = int64_t(tokens.size());
  return found;
}

}  // namespace retort
