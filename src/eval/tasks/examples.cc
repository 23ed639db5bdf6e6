#include "eval/tasks/examples.h"

namespace retort::harness {

ExampleSource example_source(const Task& task, const std::string& asked) {
  const std::string declared = !asked.empty() ? asked : task.examples_split ? task.examples_split : "";
  const std::string test = task.test ? task.test : "";
  // With no declared split and no test split both are "none", which the harness takes for the same one.
  const bool leave_out = declared == test;
  if (!declared.empty()) return {declared, leave_out};
  return {task.train ? task.train : task.validation ? task.validation : task.test, leave_out};
}

Result<std::vector<const Document*>> ExampleSampler::choose(const Document& document, const std::string& where) {
  const size_t wanted = count_ + (leave_out_document_ && !first_);
  if (wanted > pool_.size()) return invalid(where, ": ", count_, " examples asked for, there are ", pool_.size(), " documents to draw from");
  std::vector<const Document*> out;
  const auto add = [&](const Document& candidate) {
    if (out.size() < count_ && !(leave_out_document_ && candidate.row == document.row)) out.push_back(&candidate);
  };
  if (first_) {
    for (const Document& candidate : pool_) add(candidate);
  } else {
    for (const uint32_t index : random_.sample(uint32_t(pool_.size()), uint32_t(wanted))) add(pool_[index]);
  }
  if (out.size() == count_) return out;
  // The document stands in the pool several times: drawn again from the others.
  std::vector<const Document*> others;
  for (const Document& candidate : pool_) {
    if (candidate.row != document.row) others.push_back(&candidate);
  }
  if (first_ || others.size() < count_) return invalid(where, ": ", count_, " examples asked for, too few differ from the document");
  out.clear();
  for (const uint32_t index : random_.sample(uint32_t(others.size()), uint32_t(count_))) out.push_back(others[index]);
  return out;
}

Result<std::string> ExampleSampler::draw(const Document& document, const std::string& where) {
  std::string out;
  if (count_ == 0) return out;
  RETORT_TRY(const auto chosen, choose(document, where));
  for (const Document* example : chosen) out += example->example;
  return out;
}

}  // namespace retort::harness
