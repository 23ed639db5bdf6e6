// What a benchmark is: where its rows are, how a row becomes requests to a model, which numbers come out. The same tasks, prompts and
// metrics as lm-evaluation-harness 0.4.13; list.cc is the table of them, formats.cc turns rows into documents.
//
// Layer: eval. Thread-safe: values only.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace retort::harness {

using Json = nlohmann::ordered_json;  // rows keep the order of their keys: the harness hashes them so

// How likely `continuation` is after `context`. A rolling request has the whole text as continuation and no context.
struct Request {
  std::string context, continuation;
};

// One row, ready to be asked.
struct Document {
  Json row;                          // with the fields that the harness adds to it
  std::vector<Request> requests;     // one a choice; without description and examples
  std::vector<std::string> choices;  // acc_norm divides by their characters
  std::vector<bool> true_choices;    // mc2: which choices are true
  int gold = 0;
  std::string target;                // as the harness logs it
  std::string example;               // what it looks like, with its answer, in front of another document
};

// A row of a dataset file, with readers whose errors name file and line.
class Row {
 public:
  Row(Json value, std::string where) : value_(std::move(value)), where_(std::move(where)) {}

  const Json& value() const { return value_; }
  const std::string& where() const { return where_; }
  Json take() && { return std::move(value_); }
  Result<std::string> text(const char* key) const;
  Result<std::vector<std::string>> texts(const char* key) const;
  Result<std::vector<int>> integers(const char* key) const;
  Result<Row> object(const char* key) const;
  // A whole number in [0, bound), also when it is written as a string.
  Result<int> index(const char* key, size_t bound) const;
  template <class... Args>
  Error bad(const Args&... what) const {
    return invalid(where_, ": ", what...);
  }

 private:
  Result<const Json*> find(const char* key) const;

  Json value_;
  std::string where_;
};

enum class Kind { kChoices, kLastWord, kRolling };

struct Metric {
  enum class Value { kBestChoice, kBestChoicePerCharacter, kTrueMass, kGreedy, kLogLikelihood, kPerWord, kPerByte };
  enum class Mean { kMean, kPerplexity, kWeightedPerplexity, kBitsPerByte };
  const char* name;
  Value value;
  Mean mean;
  bool higher_is_better;
};

struct Task {
  std::string name;
  Kind kind;
  const char* file;                    // data files are <file>_<split>.jsonl, or .jsonl.gz, or .jsonl.zst
  const char* source;                  // where the rows come from, on the Hugging Face hub
  // Splits that the dataset has, as the harness declares them; null: none. The test split is evaluated, else the validation split.
  const char *train, *validation, *test;
  Result<Document> (*read)(Row row);
  std::vector<Metric> metrics;
  const char* version;                 // the harness's, as JSON
  const char* examples_split = nullptr;  // null: train, else validation, else test
  bool first_examples = false;         // the first ones of the split instead of drawn ones
  bool no_examples = false;            // --num-fewshot is ignored
  std::string subject;                 // only rows whose "subject" is this one
  std::string description;             // in front of the examples
  std::string alias;                   // shown instead of the name
  std::string group;                   // "mmlu_stem"; empty: none

  const char* evaluated_split() const { return test ? test : validation; }
};

// A set of tasks with one number over all their documents.
struct Group {
  std::string name, alias;
  std::string parent;  // empty: none
  const char* version;
};

// Directly or below one of its groups.
inline bool belongs_to(const Task& task, const Group& group) {
  return task.group == group.name || (group.parent.empty() && !task.group.empty());
}

// Every task that can be asked for, in the order of the documentation. A group of subjects is one entry, "mmlu".
struct TaskName {
  std::string name, summary;
};
std::vector<TaskName> task_names();
// The tasks behind names; a group's name stands for its members. A name given twice counts once.
Result<std::vector<Task>> find_tasks(const std::vector<std::string>& names);
// Groups that have members among `tasks`, children before parents.
std::vector<Group> groups_of(const std::vector<Task>& tasks);

}  // namespace retort::harness
