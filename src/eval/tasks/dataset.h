// Rows of a task's data files: JSON lines, plain, gzip or zstd, in the schema of the Hugging Face hub.
//
// Layer: eval. Not thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "eval/tasks/task.h"

namespace retort::harness {

class DataFolder {
 public:
  explicit DataFolder(std::string path) : path_(std::move(path)) {}

  // <folder>/<file>_<split>.jsonl, .jsonl.gz or .jsonl.zst. Read once. A missing file, a broken line: one error that names it.
  Result<std::vector<Document>> documents(const Task& task, const char* split);

 private:
  using Rows = std::vector<Row>;
  Result<std::shared_ptr<const Rows>> rows(const Task& task, const char* split);

  std::string path_;
  std::map<std::string, std::shared_ptr<const Rows>> read_;
};

// For tests and fuzzing: the rows of a file's content.
Result<std::vector<Row>> read_rows(std::string content, const std::string& name);

}  // namespace retort::harness
