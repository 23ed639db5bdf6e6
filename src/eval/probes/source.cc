#include "eval/probes/source.h"

#include <algorithm>
#include <numeric>

#include "base/hash.h"
#include "eval/tasks/encoding.h"

namespace retort::probes {

std::string made_up_text(int64_t sentences);  // words.cc

namespace {

constexpr int64_t kMadeUpSentences = 4096;

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> out;
  for (size_t i = 0; i < text.size();) {
    while (i < text.size() && is_space(text[i])) ++i;
    const size_t begin = i;
    while (i < text.size() && !is_space(text[i])) ++i;
    if (i > begin) out.emplace_back(text.substr(begin, i - begin));
  }
  return out;
}

// A sentence ends at a word that ends in . ! or ?, with quotation marks after it or not.
std::vector<std::string> sentences_of(const std::vector<std::string>& words) {
  std::vector<std::string> out;
  std::string sentence;
  for (const std::string& word : words) {
    sentence += (sentence.empty() ? "" : " ") + word;
    const size_t last = word.find_last_not_of("\"')]");
    if (last != std::string::npos && std::string_view(".!?").find(word[last]) != std::string_view::npos) {
      out.push_back(std::move(sentence));
      sentence.clear();
    }
  }
  if (!sentence.empty()) out.push_back(std::move(sentence));
  return out;
}

Result<Example> encode(const Source& source, const Draft& draft, const std::string& task) {
  // Pairs are encoded as the benchmarks encode theirs; nothing is cut off here.
  const harness::RequestEncoder encoder(source.tokenizer(), {harness::AddBos::kAuto, int64_t{1} << 40});
  Example out;
  out.pairs = draft.pairs;
  for (const Draft::Question& question : draft.questions) {
    const harness::Request request{draft.context + question.text, question.answer};
    RETORT_TRY(auto ids, encoder.encode(request, harness::Kind::kChoices, task));
    out.questions.push_back(std::move(ids.front()));
  }
  return out;
}

}  // namespace

Result<Source> Source::make(const Tokenizer& tokenizer, std::string_view text, uint64_t seed) {
  Source out(tokenizer, seed);
  out.words_ = words_of(text.empty() ? std::string_view(made_up_text(kMadeUpSentences)) : text);
  if (out.words_.empty()) return invalid("the text for the probes has no words");
  out.sentences_ = sentences_of(out.words_);
  return out;
}

int64_t Example::tokens() const {
  int64_t most = 0;
  for (const Continuation& q : questions) most = std::max(most, int64_t(q.context.size() + q.ids.size()));
  return most;
}

Random random_of(const Source& source, const Cell& cell, int64_t index) {
  uint64_t hash = fnv1a_item(cell.task, kFnvStart);
  for (const uint64_t unit : {source.seed(), uint64_t(cell.length), uint64_t(cell.pairs), uint64_t(index)}) hash = fnv1a_unit(unit, hash);
  return Random(hash);
}

std::vector<int64_t> draw(Random& random, int64_t population, int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(population));
  std::iota(all.begin(), all.end(), int64_t{0});
  for (int64_t i = 0; i < count; ++i) std::swap(all[size_t(i)], all[size_t(i + below(random, population - i))]);
  all.resize(size_t(count));
  return all;
}

Result<std::vector<Example>> fit(const Source& source, const Cell& cell, int64_t count, int64_t least_units, int64_t most_units,
                                 const Writer& write) {
  const auto example = [&](int64_t units, int64_t index) { return encode(source, write(units, index), cell.task); };
  RETORT_TRY(const Example least, example(least_units, 0));
  if (least.tokens() > cell.length) {
    return invalid("probe: ", cell.task, cell.pairs ? cat(" with ", cell.pairs, " pairs") : "", " takes at least ", least.tokens(),
                   " tokens; the length is ", cell.length);
  }
  std::vector<Example> out;
  for (int64_t i = 0; i < count; ++i) {
    RETORT_TRY(Example longest, example(least_units, i));
    if (longest.tokens() > cell.length) return invalid("probe: ", cell.task, " does not fit into ", cell.length, " tokens");
    // low fits, high does not: a unit is at least a token.
    int64_t low = least_units, high = std::max(low, std::min(most_units, cell.length)) + 1;
    while (low + 1 < high) {
      const int64_t middle = low + (high - low) / 2;
      RETORT_TRY(Example tried, example(middle, i));
      if (tried.tokens() > cell.length) {
        high = middle;
      } else {
        low = middle;
        longest = std::move(tried);
      }
    }
    out.push_back(std::move(longest));
  }
  return out;
}

}  // namespace retort::probes
