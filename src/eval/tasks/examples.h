// Examples in front of a document ("shots"), drawn as the harness draws them.
//
// Layer: eval. Belongs to one thread.
#pragma once

#include <span>

#include "eval/tasks/python_random.h"
#include "eval/tasks/task.h"

namespace retort::harness {

// The split that a task's examples come from, and whether the document itself must not be among them: it need not be checked when they
// come from another split. `asked`: --fewshot-split, may be empty.
struct ExampleSource {
  std::string split;
  bool leave_out_document = false;
};
ExampleSource example_source(const Task& task, const std::string& asked);

// Documents must be shown in their order: every draw moves the generator.
class ExampleSampler {
 public:
  static constexpr uint32_t kSeed = 1234;

  ExampleSampler(std::span<const Document> pool, size_t count, bool first, bool leave_out_document)
      : pool_(pool), count_(count), first_(first), leave_out_document_(leave_out_document), random_(kSeed) {}

  // The examples' texts, joined. `where` starts the error about a pool that is too small.
  Result<std::string> draw(const Document& document, const std::string& where);

 private:
  Result<std::vector<const Document*>> choose(const Document& document, const std::string& where);

  std::span<const Document> pool_;
  size_t count_;
  bool first_, leave_out_document_;
  PythonRandom random_;
};

}  // namespace retort::harness
