// Multi-query associative recall, as Zoology (Arora et al. 2023) makes it: N keys, each followed by its value, then every key once more
// among random tokens; the value is asked for there. Keys and values are two halves of the vocabulary, all different; the queries'
// places are drawn evenly (its power_a = 1), so that the length of the sequence is the distance that a memory must bridge.
#include <algorithm>

#include "eval/probes/source.h"

namespace retort::probes {
namespace {

bool is_plain_word(const std::string& bytes) {
  return bytes.size() > 3 && bytes[0] == ' ' && std::all_of(bytes.begin() + 1, bytes.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

// Whole words; every token that is not a control token where there are too few of those.
std::vector<int> token_pool(const Tokenizer& tokenizer, int64_t least) {
  std::vector<int> words, all;
  for (int id = 0; id < int(tokenizer.size()); ++id) {
    const std::string bytes = tokenizer.is_special(id) ? "" : tokenizer.token_bytes(id);
    if (!bytes.empty() && id != tokenizer.eos_id() && id != tokenizer.bos_id()) all.push_back(id);
    if (is_plain_word(bytes)) words.push_back(id);
  }
  return int64_t(words.size()) >= least ? words : all;
}

// A text's first token is special to most models: it is not a key.
Result<std::vector<int>> beginning(const Tokenizer& tokenizer) {
  RETORT_TRY(const auto special, tokenizer.encode("", {.add_special = true}));
  if (!special.empty()) return std::vector<int>(special.begin(), special.end());
  const int first = tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : tokenizer.eos_id();
  return first >= 0 ? std::vector<int>{first} : std::vector<int>{};
}

Example mqar_example(const std::vector<int>& pool, const std::vector<int>& begin, const Cell& cell, Random random) {
  const int64_t pairs = cell.pairs, half = int64_t(pool.size()) / 2;
  const auto keys = draw(random, half, pairs), values = draw(random, half, pairs);
  const auto key = [&](int64_t p) { return pool[size_t(keys[size_t(p)])]; };
  const auto value = [&](int64_t p) { return pool[size_t(half + values[size_t(p)])]; };
  std::vector<int> all = begin;
  for (int64_t p = 0; p < pairs; ++p) all.push_back(key(p)), all.push_back(value(p));
  // What follows are places of two tokens: a query and the token where its value is asked for, or two tokens that mean nothing.
  const size_t first = all.size();
  const int64_t places = (cell.length - int64_t(first)) / 2;
  std::vector<int> fill(pool);
  for (const auto& [list, offset] : {std::pair{&keys, int64_t{0}}, std::pair{&values, half}}) {
    for (const int64_t index : *list) fill[size_t(offset + index)] = -1;
  }
  std::erase(fill, -1);
  for (int64_t i = 0; i < 2 * places; ++i) all.push_back(fill[size_t(below(random, int64_t(fill.size())))]);
  const auto chosen = draw(random, places, pairs);
  for (int64_t p = 0; p < pairs; ++p) all[first + size_t(2 * chosen[size_t(p)])] = key(p);
  Example out;
  out.pairs = pairs;
  for (int64_t p = 0; p < pairs; ++p) {
    out.questions.push_back({{all.begin(), all.begin() + ptrdiff_t(first) + 2 * chosen[size_t(p)] + 1}, {value(p)}});
  }
  return out;
}

}  // namespace

Result<std::vector<Example>> make_mqar(const Source& source, const Cell& cell, int64_t count) {
  const auto pool = token_pool(source.tokenizer(), 8 * cell.pairs);
  RETORT_TRY(const auto begin, beginning(source.tokenizer()));
  const int64_t least = int64_t(begin.size()) + 4 * cell.pairs;
  if (cell.length < least) {
    return invalid("probe: mqar with ", cell.pairs, " pairs takes at least ", least, " tokens; the length is ", cell.length);
  }
  if (int64_t(pool.size()) < 2 * cell.pairs + 2) {
    return invalid("probe: mqar with ", cell.pairs, " pairs takes ", 2 * cell.pairs + 2, " different tokens; the tokenizer has ", pool.size());
  }
  std::vector<Example> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(mqar_example(pool, begin, cell, random_of(source, cell, i)));
  return out;
}

}  // namespace retort::probes
