// The classes of other libraries that a model can be written as (docs/export.md has the table), and reading back what was written.
//
// Layer: io.
#pragma once

#include <map>
#include <optional>

#include "io/export/layout.h"
#include "io/tokenizer.h"

namespace retort {

struct ExportTarget {
  const char* name;     // what `retort convert --to` takes
  const char* summary;
  bool gguf;            // one .gguf file; otherwise a Hugging Face folder
  // What cannot be expressed without loss is refused with the field and the rule.
  Result<ExportPlan> (*plan)(const ModelConfig&);
};
const std::vector<ExportTarget>& export_targets();
const ExportTarget* find_export_target(const std::string& name);  // null: none

// What the files carry so that they read back as the same student: {"to": the target's name, "config": our config.json,
// "roundings": what export/roundings.h finds}.
inline constexpr const char* kExportKey = "retort_export";       // in config.json
inline constexpr const char* kGgufExportKey = "retort.export";   // in a GGUF, as JSON text

struct ExportOptions {
  // Matrices; tensors whose floor is kF32 stay F32. A GGUF may have Q8_0, Q4_0 and Q4_1, where embeddings keep Q8_0 and rows that
  // no block divides F16.
  TensorType matrices = TensorType::kF32;
  std::map<std::string, std::string> extra_files;  // a folder's tokenizer and template
  std::optional<Tokenizer> tokenizer;              // a GGUF's
  // Another type in blocks for one of a GGUF's matrices that would have `type`; unset: none.
  std::function<TensorType(const ExportTensor& tensor, TensorType type)> choose;
  // How a GGUF's matrices in blocks are rounded; unset: as ggml does. `values` are `tensor`'s.
  using Encode = std::function<Result<std::vector<std::byte>>(const ExportTensor& tensor, TensorType type, const std::vector<float>& values)>;
  Encode encode;
};
struct WrittenExport {
  std::string format;              // what it is called there: "gla", "granitehybrid"
  std::vector<std::string> notes;  // what differs within rounding, in words; mostly nothing
};
// Whole or not at all.
Result<WrittenExport> write_export(const std::string& path, const ExportTarget& target, const ModelConfig& config,
                                   const TensorValues& values, const ExportOptions& options);

// What a file that write_export wrote says about itself; `said` is the value of its key. `where` names the file.
struct ExportedModel {
  ModelConfig config;
  ExportPlan plan;
};
Result<ExportedModel> read_exported(const nlohmann::json& said, const std::string& where);

}  // namespace retort
