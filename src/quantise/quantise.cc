#include "quantise/quantise.h"

#include "mixers/list.h"
#include "quantise/block_grid.h"
#include "quantise/error_feedback.h"

namespace retort {
namespace {

class Rounder {
 public:
  Rounder(const QuantiseOptions& options, ThreadPool& pool) : options_(options), pool_(pool) {}

  Result<std::vector<std::byte>> encode(const ExportTensor& tensor, TensorType type, const std::vector<float>& values) {
    // What a tensor's pieces are applied to is the same: rows of one product.
    const std::string& ours = tensor.pieces.front().source;
    const auto moments = options_.moments ? options_.moments->of(ours) : std::span<const std::shared_ptr<InputMoments>>{};
    const int64_t columns = tensor.shape.back();
    if (moments.empty() || type == TensorType::kQ8_0) {
      ++report.rounded;
      return round_to_nearest(type, int64_t(values.size()) / columns, columns, values.data(), pool_);
    }
    ++report.calibrated;
    const int64_t matrices = int64_t(moments.size()), rows = int64_t(values.size()) / columns / matrices;
    std::vector<std::byte> out;
    for (int64_t m = 0; m < matrices; ++m) {
      RETORT_TRY(const FeedbackFactor* factor, factor_of(moments[size_t(m)], ours));
      const auto bytes = round_with_feedback(type, rows, columns, values.data() + m * rows * columns, *factor, pool_);
      out.insert(out.end(), bytes.begin(), bytes.end());
    }
    return out;
  }

  QuantiseReport report;

 private:
  // Tensors beside each other mostly share their input.
  Result<const FeedbackFactor*> factor_of(const std::shared_ptr<InputMoments>& moments, const std::string& name) {
    if (moments != last_) {
      auto factor = FeedbackFactor::of(*moments, pool_);
      if (!factor.ok()) return invalid(name, ": ", factor.error().message);
      factor_ = std::move(*factor);
      last_ = moments;
    }
    return &factor_;
  }

  const QuantiseOptions& options_;
  ThreadPool& pool_;
  std::shared_ptr<InputMoments> last_;
  FeedbackFactor factor_;
};

}  // namespace

Result<QuantiseReport> quantise_model(const std::string& path, const ModelFiles& files, const QuantiseOptions& options, ThreadPool& pool) {
  if (!has_grid(options.type)) return internal_error("quantise: ", tensor_type_name(options.type), " has no blocks of levels");
  const ExportTarget* target = find_export_target(is_plain_transformer(files.config) ? "gguf" : "retort");
  Rounder rounder(options, pool);
  const auto total = int64_t(model_tensors(files.config).size());
  int64_t done = 0;
  const auto values = [&](const std::string& name) -> Result<std::vector<float>> {
    if (options.progress && !options.progress(done++, total, name)) return Error{ErrorCode::kInterrupted, "interrupted"};
    RETORT_TRY(const TensorView view, files.weights->tensor(name));
    RETORT_RETURN_IF_ERROR(check_finite(view));
    return read_f32(view);
  };
  ExportOptions out;
  out.matrices = options.type;
  out.tokenizer = options.tokenizer;
  out.encode = [&](const ExportTensor& tensor, TensorType type, const std::vector<float>& v) { return rounder.encode(tensor, type, v); };
  RETORT_TRY(const WrittenExport written, write_export(path, *target, files.config, values, out));
  rounder.report.format = written.format;
  return rounder.report;
}

}  // namespace retort
