// Answers that are finished while others are still being made, so that an interrupted run goes on where it was. Beside the file that
// appears whole at the end, with ".partial" behind its name.
//
// Layer: cli. Not thread-safe.
#pragma once

#include <fstream>
#include <map>
#include <string>

#include "eval/tasks/task.h"

namespace retort::cli {

class ProgressFile {
 public:
  // `settings`: what decides the answers. A file of other settings is an error that says how to go on; a last line that was not
  // written to its end is forgotten.
  static Result<ProgressFile> open(const std::string& path, const harness::Json& settings);

  const std::map<size_t, harness::Json>& answers() const { return answers_; }  // by question
  Status add(size_t question, const harness::Json& answer);
  // The whole file is there.
  void remove();

 private:
  std::string path_;
  std::map<size_t, harness::Json> answers_;
  std::ofstream out_;
};

}  // namespace retort::cli
