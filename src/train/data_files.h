// The files that training text is read from, each with the name that its bytes have everywhere: they travel with the student, and a run that
// goes on on other text can say which file it was.
//
// Layer: train, torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/recipe.h"

namespace retort::train {

struct DataFile {
  std::string file;
  int64_t bytes = 0;
  std::string sha256;             // of the file as it lies there, 64 hex digits
  bool operator==(const DataFile&) const = default;
};

// The recipe's and those of its stages, every source once, in the order in which they are read; a folder's files one by one. A file that cannot
// be read is an error that names it.
Result<std::vector<DataFile>> data_files(const Recipe& recipe);

// [{"file", "bytes", "sha256"}]
nlohmann::json data_files_json(const std::vector<DataFile>& files);

// "b.jsonl: its text is not the one this run began with (SHA-256 12ab..., was 34cd...)": the first place where two lists differ; names alone do not
// count. `before` is what data_files_json() gave; "" when nothing can be said.
std::string data_difference(const nlohmann::json& before, const std::vector<DataFile>& now);

}  // namespace retort::train
