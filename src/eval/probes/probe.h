// Recall probes: tasks made on the spot that ask for something a context has said. They tell models apart that plain perplexity does
// not: a recurrence that recalls no more than its window fails them as soon as the answer lies further back (docs/evaluation.md has
// the definitions).
//
// Layer: eval. Thread-safe: values and pure functions. The same source, cell and seed give the same examples.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "eval/continuation_scores.h"
#include "io/tokenizer.h"
#include "runtime/random.h"

namespace retort::probes {

// One measurement: a task at a length and a number of pairs.
struct Cell {
  std::string task;
  int64_t length = 0;  // tokens of context and answer together, at most
  int64_t pairs = 0;   // key-value pairs that the context holds; 0: the task has one, or as many as fit
};

// What examples are made of, the same for every cell.
class Source {
 public:
  // `text`: the haystack and what is copied; empty: sentences that are made up.
  static Result<Source> make(const Tokenizer& tokenizer, std::string_view text, uint64_t seed);

  const Tokenizer& tokenizer() const { return tokenizer_; }
  uint64_t seed() const { return seed_; }
  const std::vector<std::string>& sentences() const { return sentences_; }
  const std::vector<std::string>& words() const { return words_; }

 private:
  explicit Source(const Tokenizer& tokenizer, uint64_t seed) : tokenizer_(tokenizer), seed_(seed) {}
  Tokenizer tokenizer_;
  uint64_t seed_;
  std::vector<std::string> sentences_, words_;
};

// A context, and one continuation for every question about it.
struct Example {
  std::vector<Continuation> questions;
  int64_t pairs = 0;
  int64_t tokens() const;  // of the longest question with its answer
};

struct Task {
  enum class Pairs { kOne, kGiven, kFitting };  // of a context: one, --pairs, or as many as fit into the length
  const char* name;
  const char* summary;
  Pairs pairs;
  Result<std::vector<Example>> (*make)(const Source& source, const Cell& cell, int64_t count);
};

const std::vector<Task>& tasks();
Result<const Task*> find_task(const std::string& name);

// The cells of a task over the lengths and, where it has them, the numbers of pairs.
std::vector<Cell> cells_of(const Task& task, const std::vector<int64_t>& lengths, const std::vector<int64_t>& pairs);
Result<std::vector<Example>> make_examples(const Source& source, const Cell& cell, int64_t count);

}  // namespace retort::probes
