#include "quantise/calibrate.h"

#include <algorithm>

#include "mixers/list.h"
#include "quantise/error_feedback.h"
#include "quantise/level_search.h"

namespace retort {
namespace {

constexpr int64_t kPassRows = 512;
constexpr int kSweeps = 4;  // the first has most of the gain

class LayerWalk {
 public:
  LayerWalk(const ModelFiles& files, std::span<const int> tokens, const CalibrationOptions& options, ThreadPool& pool)
      : files_(files), tokens_(tokens), options_(options), pool_(pool), rounded_(std::make_shared<RoundedWeights>(files.weights)) {
    for (const TensorSpec& spec : model_tensors(files.config)) types_[spec.name] = file_type(spec, options.type);
  }

  Result<std::shared_ptr<const RoundedWeights>> run() {
    RETORT_RETURN_IF_ERROR(embed());
    for (int l = 0; l < files_.config.layers; ++l) {
      if (options_.progress && !options_.progress(l)) return Error{ErrorCode::kInterrupted, "interrupted"};
      RETORT_RETURN_IF_ERROR(round_layer(l));
    }
    return std::shared_ptr<const RoundedWeights>(rounded_);
  }

 private:
  float* hidden(int64_t token) { return hidden_.data() + token * files_.config.width; }

  Status embed() {
    RETORT_TRY(const TensorView view, files_.weights->tensor("model.embed_tokens.weight"));
    const int64_t width = files_.config.width;
    hidden_.resize(tokens_.size() * size_t(width));
    for (size_t t = 0; t < tokens_.size(); ++t) {
      const int token = tokens_[t];
      if (token < 0 || token >= files_.config.vocab_size) return invalid("token ", token, " is outside the vocabulary of ", files_.config.vocab_size);
      dequantise_row(view.type, view.data + token * row_bytes(view.type, width), hidden(int64_t(t)), width);
    }
    return {};
  }

  Status round_layer(int layer) {
    ModelFiles files = files_;
    files.weights = rounded_;
    MomentCollector collector(pool_);
    {
      RETORT_TRY(const auto model, Model::load_layer(files, layer, WeightFormat::kAuto, pool_));
      Engine engine(model, pool_);
      engine.watch_inputs([&](std::span<const WeightRef> weights, const RuntimeOps::Tensor& x, int64_t rows) { collector.see(weights, x, rows); });
      std::vector<float> copy;
      each_pass(*model, [&](Sequence& sequence, int64_t at, int64_t count) {
        copy.assign(hidden(at), hidden(at + count));
        engine.forward_hidden(sequence, copy.data(), count);
      });
    }
    RETORT_RETURN_IF_ERROR(round_tensors(collector.take()));
    RETORT_TRY(const auto model, Model::load_layer(files, layer, WeightFormat::kAuto, pool_));
    Engine engine(model, pool_);
    each_pass(*model, [&](Sequence& sequence, int64_t at, int64_t count) { engine.forward_hidden(sequence, hidden(at), count); });
    return {};
  }

  // fn(the window's sequence, first token, count)
  template <class Fn>
  void each_pass(const Model& model, Fn&& fn) const {
    Sequence sequence = model.new_sequence();
    const auto all = int64_t(tokens_.size());
    for (int64_t at = 0, count = 0; at < all; at += count) {
      const int64_t in_window = at % options_.window;
      if (in_window == 0) sequence.reset();
      count = std::min({kPassRows, options_.window - in_window, all - at});
      fn(sequence, at, count);
    }
  }

  Status round_tensors(std::map<std::string, TensorMoments> moments) {
    while (!moments.empty()) {
      const TensorMoments inputs = moments.begin()->second;  // of several tensors: factors are large, and wanted once
      std::vector<FeedbackFactor> factors;
      for (auto it = moments.begin(); it != moments.end();) {
        if (it->second != inputs) {
          ++it;
          continue;
        }
        RETORT_RETURN_IF_ERROR(round_tensor(it->first, inputs, factors));
        it = moments.erase(it);
      }
    }
    return {};
  }

  // factors: of the inputs, made when the first tensor needs them.
  Status round_tensor(const std::string& name, const TensorMoments& inputs, std::vector<FeedbackFactor>& factors) {
    RETORT_TRY(const TensorView view, files_.weights->tensor(name));
    const TensorType type = types_.at(name);
    const int64_t columns = view.shape.back(), matrices = int64_t(inputs.size()), rows = view.count() / columns / matrices;
    if (columns % kGridBlock != 0) return {};
    RETORT_TRY(const std::vector<float> values, read_f32(view));
    if (type == TensorType::kQ8_0) {  // to the nearest is as good
      rounded_->set(view, type, round_to_nearest(type, rows * matrices, columns, values.data(), pool_).blocks(type, pool_));
      return {};
    }
    for (size_t m = factors.size(); m < inputs.size(); ++m) {
      auto factor = FeedbackFactor::of(*inputs[m], pool_);
      if (!factor.ok()) return invalid(name, ": ", factor.error().message);
      factors.push_back(std::move(*factor));
    }
    std::vector<std::byte> out;
    for (int64_t m = 0; m < matrices; ++m) {
      const auto bytes = round_matrix(type, rows, columns, values.data() + m * rows * columns, factors[size_t(m)]);
      out.insert(out.end(), bytes.begin(), bytes.end());
    }
    rounded_->set(view, type, std::move(out));
    return {};
  }

  std::vector<std::byte> round_matrix(TensorType type, int64_t rows, int64_t columns, const float* w, const FeedbackFactor& factor) {
    RoundedRows rounded = round_by_feedback(type, rows, columns, w, factor, pool_);
    for (const auto& block : factor.blocks()) {
      LevelSearch search(block, w, rounded, pool_);
      for (int i = 0; i < kSweeps; ++i) search.sweep();
    }
    return rounded.blocks(type, pool_);
  }

  const ModelFiles& files_;
  std::span<const int> tokens_;
  const CalibrationOptions& options_;
  ThreadPool& pool_;
  std::shared_ptr<RoundedWeights> rounded_;
  std::map<std::string, TensorType> types_;
  std::vector<float> hidden_;  // what the next layer is given, [tokens, width]
};

}  // namespace

Result<std::shared_ptr<const RoundedWeights>> calibrate(const ModelFiles& files, std::span<const int> tokens, const CalibrationOptions& options,
                                                        ThreadPool& pool) {
  return LayerWalk(files, tokens, options, pool).run();
}

}  // namespace retort
