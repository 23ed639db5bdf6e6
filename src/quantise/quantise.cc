#include "quantise/quantise.h"

#include <cstring>

#include "mixers/list.h"
#include "quantise/block_grid.h"
#include "quantise/error_feedback.h"

namespace retort {
namespace {

// Rows that were rounded go where their numbers went: a tensor of the file is made of rows of ours.
class Encoder {
 public:
  Encoder(const QuantiseOptions& options, ThreadPool& pool) : options_(options), pool_(pool) {}

  const TensorView* rounded(const std::string& name) const { return options_.rounded ? options_.rounded->rounded(name) : nullptr; }
  // Null: it was not rounded.
  const TensorView* rounded(const ExportTensor& tensor) const {
    RETORT_CHECK(tensor.pieces.size() == 1, tensor.name);  // both formats have our tensors one by one
    return rounded(tensor.pieces.front().source);
  }

  static std::vector<float> row_numbers(const TensorView& view) {
    std::vector<float> out(size_t(view.count()));
    const int64_t columns = view.shape.back();
    for (int64_t i = 0; i < view.count(); ++i) out[size_t(i)] = float(i / columns);
    return out;
  }

  std::vector<std::byte> encode(const ExportTensor& tensor, TensorType type, const std::vector<float>& values) {
    const int64_t columns = tensor.shape.back(), rows = int64_t(values.size()) / columns, bytes = row_bytes(type, columns);
    const TensorView* view = rounded(tensor);
    ++(view && type != TensorType::kQ8_0 ? report.calibrated : report.rounded);
    if (!view) return round_to_nearest(type, rows, columns, values.data(), pool_).blocks(type, pool_);
    std::vector<std::byte> out(size_t(rows * bytes));
    for (int64_t r = 0; r < rows; ++r) std::memcpy(out.data() + r * bytes, view->data + int64_t(values[size_t(r * columns)]) * bytes, size_t(bytes));
    return out;
  }

  QuantiseReport report;

 private:
  const QuantiseOptions& options_;
  ThreadPool& pool_;
};

}  // namespace

Result<QuantiseReport> quantise_model(const std::string& path, const ModelFiles& files, const QuantiseOptions& options, ThreadPool& pool) {
  if (!has_grid(options.type)) return internal_error("quantise: ", tensor_type_name(options.type), " has no blocks of levels");
  const ExportTarget* target = find_export_target(is_plain_transformer(files.config) ? "gguf" : "retort");
  Encoder encoder(options, pool);
  const auto total = int64_t(model_tensors(files.config).size());
  int64_t done = 0;
  const auto values = [&](const std::string& name) -> Result<std::vector<float>> {
    if (options.progress && !options.progress(done++, total, name)) return Error{ErrorCode::kInterrupted, "interrupted"};
    RETORT_TRY(const TensorView view, files.weights->tensor(name));
    RETORT_RETURN_IF_ERROR(check_finite(view));
    if (encoder.rounded(name)) return Encoder::row_numbers(view);
    return read_f32(view);
  };
  ExportOptions out;
  out.matrices = options.type;
  out.tokenizer = options.tokenizer;
  const SpecsByName specs = specs_by_name(files.config);
  out.choose = [&](const ExportTensor& tensor, TensorType type) { return file_type(specs.at(tensor.pieces.front().source), type); };
  out.encode = [&](const ExportTensor& tensor, TensorType type, const std::vector<float>& v) { return encoder.encode(tensor, type, v); };
  RETORT_TRY(const WrittenExport written, write_export(path, *target, files.config, values, out));
  encoder.report.format = written.format;
  return encoder.report;
}

}  // namespace retort
