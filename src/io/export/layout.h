// How a model lies in somebody else's file: their tensors, each made of blocks of rows of ours. One table serves both ways:
// writing gathers their tensors from ours, reading back gathers ours from theirs.
//
// Layer: io. Values; the store is thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "io/gguf_writer.h"
#include "io/weights.h"
#include "model/tensor_spec.h"

namespace retort {

// Consecutive rows (of the outermost dimension) of one of their tensors.
struct ExportPiece {
  enum class Change {
    kNone,
    kMinusOne,     // w - 1: a norm that multiplies by 1 + w
    kMinusExp,     // -exp(w): a decay rate where we keep its logarithm
    kInterleaved,  // every block's rows 0, 1, .. as 0, h, 1, h + 1, ..: rope that rotates neighbours (h = half the block)
  };
  std::string source;     // our tensor; empty: `fill_rows` rows of `fill`
  int64_t first = 0;      // of its rows
  int64_t rows = 0;       // 0: all from `first`
  int blocks = 1;         // the rows are so many blocks (heads) ...
  int times = 1;          // ... each repeated so often, one copy after the other
  Change change = Change::kNone;
  int64_t fill_rows = 0;
  float fill = 0;
  int64_t fill_columns = 0;  // columns of `fill` after the source's own, for a matrix that is wider than ours

  static ExportPiece copy(std::string source) { return {std::move(source)}; }
  static ExportPiece changed(std::string source, Change change) { return {std::move(source), 0, 0, 1, 1, change}; }
  static ExportPiece slice(std::string source, int64_t first, int64_t rows) { return {std::move(source), first, rows}; }
  static ExportPiece repeat(std::string source, int blocks, int times) { return {std::move(source), 0, 0, blocks, times}; }
  static ExportPiece repeat_slice(std::string source, int64_t first, int64_t rows, int blocks, int times) {
    return {std::move(source), first, rows, blocks, times};
  }
  static ExportPiece interleave(std::string source, int heads) { return {std::move(source), 0, 0, heads, 1, Change::kInterleaved}; }
  static ExportPiece constant(int64_t rows, float value) {
    ExportPiece piece;
    piece.fill_rows = rows;
    piece.fill = value;
    return piece;
  }
};

// v as they keep it, and back.
float changed(ExportPiece::Change change, float v);
float restored(ExportPiece::Change change, float v);
// True where that may lose v's last bits.
inline bool rounds(ExportPiece::Change change) { return change == ExportPiece::Change::kMinusOne || change == ExportPiece::Change::kMinusExp; }
// What it loses, by our tensors' names: for each value, its bits minus those of what comes back (export/roundings.h).
using Roundings = std::map<std::string, std::vector<int32_t>>;

struct ExportTensor {
  std::string name;            // theirs
  std::vector<int64_t> shape;  // theirs, outermost first
  std::vector<ExportPiece> pieces;
  Precision floor = Precision::kQuantised;
};

struct ExportPlan {
  std::string format;              // what it is called: "gla", "granitehybrid"
  nlohmann::json config;           // their config.json; null for a GGUF
  GgufMetadata metadata;           // a GGUF's, without the tokenizer's
  std::vector<ExportTensor> tensors;
  Roundings roundings;             // of the model that was written or is read back
  std::vector<std::string> notes;  // what differs within rounding, for people
};

using TensorValues = std::function<Result<std::vector<float>>(const std::string& name)>;

// One of their tensors from ours. `specs` are our tensors by name.
using SpecsByName = std::map<std::string, TensorSpec>;
SpecsByName specs_by_name(const ModelConfig& config);
Result<std::vector<float>> gather(const ExportTensor& tensor, const SpecsByName& specs, const TensorValues& values);

// Our tensors in `theirs`. A tensor that is missing or of another shape is an error here; repeated rows that have come to differ
// (the file was trained on elsewhere) and constants that have changed are errors when they are read. What was not changed or
// repeated is not copied.
Result<std::shared_ptr<const WeightStore>> exported_weights(std::shared_ptr<const WeightStore> theirs, ExportPlan plan, const ModelConfig& config);

}  // namespace retort
