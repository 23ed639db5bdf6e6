// The two tasks by which Jelassi et al. (2024, "Repeat After Me") compare pretrained models: a phone book, and a text copied word for word.
#include <algorithm>

#include "eval/probes/source.h"

namespace retort::probes {
namespace {

constexpr int64_t kQuestionsPerText = 4;
constexpr int64_t kExampleEntries = 2;  // shown once more in front of the question, so that it is clear what is asked

std::string phone_number(Random& random) {
  std::string out(1, char('6' + below(random, 4)));
  while (out.size() < 10) out += char('0' + below(random, 10));
  return out;
}

}  // namespace

Result<std::vector<Example>> make_phonebook(const Source& source, const Cell& cell, int64_t count) {
  const int64_t names = int64_t(first_names().size() * last_names().size());
  return fit(source, cell, count, kExampleEntries + kQuestionsPerText, names, [&](int64_t units, int64_t index) {
    Random random = random_of(source, cell, index);
    const auto people = draw(random, names, units);
    struct Entry {
      std::string name, number;
    };
    std::vector<Entry> book;
    for (const int64_t person : people) {
      const auto at = size_t(person);
      book.push_back({cat(first_names()[at / last_names().size()], " ", last_names()[at % last_names().size()]), phone_number(random)});
    }
    const auto line = [&](int64_t entry) { return cat(book[size_t(entry)].name, ": ", book[size_t(entry)].number, "\n"); };
    const auto chosen = draw(random, units, kExampleEntries + kQuestionsPerText);
    Draft out;
    out.pairs = units;
    for (int64_t e = 0; e < units; ++e) out.context += line(e);
    out.context += cat("\n", line(chosen[0]), line(chosen[1]), "\n");
    for (int64_t q = kExampleEntries; q < kExampleEntries + kQuestionsPerText; ++q) {
      const Entry& asked = book[size_t(chosen[size_t(q)])];
      out.questions.push_back({asked.name + ":", " " + asked.number});
    }
    return out;
  });
}

Result<std::vector<Example>> make_copy(const Source& source, const Cell& cell, int64_t count) {
  const auto& words = source.words();
  if (words.size() < 2) return invalid("probe: copy takes a text of at least 2 words; the text has ", words.size());
  return fit(source, cell, count, 2, int64_t(words.size()), [&](int64_t units, int64_t index) {
    Random random = random_of(source, cell, index);
    const int64_t first = int64_t(random.uniform() * double(int64_t(words.size()) - units + 1));
    std::string rest;
    for (int64_t w = first + 1; w < first + units; ++w) rest += " " + words[size_t(w)];
    const std::string& start = words[size_t(first)];
    Draft out;
    out.context = cat(start, rest, "\n\n", start, rest, "\n\n");
    out.questions.push_back({start, rest});
    return out;
  });
}

}  // namespace retort::probes
