// What the tasks are written with: random numbers that belong to a cell, words, and texts cut to a length in tokens.
//
// Layer: eval. Thread-safe: pure functions.
#pragma once

#include <span>

#include "eval/probes/probe.h"

namespace retort::probes {

// An example in words. A question begins where the context ends; an answer begins with its space.
struct Draft {
  struct Question {
    std::string text, answer;
  };
  std::string context;
  std::vector<Question> questions;
  int64_t pairs = 0;
};
// The example `index` of a cell with this many units of whatever makes it long: sentences, entries, words. Same arguments, same draft.
using Writer = std::function<Draft(int64_t units, int64_t index)>;

// Drafts as long as the cell allows, each by itself.
Result<std::vector<Example>> fit(const Source& source, const Cell& cell, int64_t count, int64_t least_units, int64_t most_units,
                                 const Writer& write);

// Its own numbers for every example: neither other cells nor the number of examples change them.
Random random_of(const Source& source, const Cell& cell, int64_t index);

inline int64_t below(Random& random, int64_t bound) { return int64_t(random.next() % uint64_t(bound)); }
// `count` different ones of [0, population), in the order drawn. count <= population.
std::vector<int64_t> draw(Random& random, int64_t population, int64_t count);

std::span<const char* const> first_names();
std::span<const char* const> last_names();
std::span<const char* const> adjectives();
std::span<const char* const> nouns();

}  // namespace retort::probes
