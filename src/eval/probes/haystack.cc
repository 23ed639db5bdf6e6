// Something said once in a long text: the needle of RULER (Hsieh et al. 2024) and the passkey of Mohtashami and Jaggi (2023).
#include <algorithm>
#include <array>

#include "eval/probes/source.h"

namespace retort::probes {
namespace {

constexpr int64_t kQuestions = 4;  // about one context; what comes before them is read once

std::string text_of(const std::vector<std::string>& sentences) {
  std::string out;
  for (const std::string& sentence : sentences) out += (out.empty() ? "" : " ") + sentence;
  return out;
}

// RULER's depths: 40 from the beginning to the end, different ones as long as there are enough.
std::vector<double> depths(Random& random, int64_t count) {
  constexpr int64_t kDepths = 40;
  std::vector<double> out;
  while (int64_t(out.size()) < count) {
    for (const int64_t depth : draw(random, kDepths, std::min(kDepths, count - int64_t(out.size())))) out.push_back(double(depth) / (kDepths - 1));
  }
  return out;
}

struct Needle {
  std::string key, value;
  double depth;
};

std::vector<Needle> needles(Random& random, int64_t count) {
  const int64_t names = int64_t(adjectives().size() * nouns().size());
  const auto keys = draw(random, names, count);
  const auto places = depths(random, count);
  std::vector<Needle> out;
  for (int64_t i = 0; i < count; ++i) {
    const auto key = size_t(keys[size_t(i)]);
    out.push_back({cat(adjectives()[key / nouns().size()], "-", nouns()[key % nouns().size()]),
                   std::to_string(1000000 + below(random, 9000000)), places[size_t(i)]});
  }
  return out;
}

// The first sentences of the haystack, from its start again when they are used up, with the needles between them.
std::string with_needles(const std::vector<std::string>& haystack, int64_t units, std::vector<Needle> hidden) {
  std::stable_sort(hidden.begin(), hidden.end(), [](const Needle& a, const Needle& b) { return a.depth < b.depth; });
  std::vector<std::string> sentences;
  size_t next = 0;
  for (int64_t u = 0; u <= units; ++u) {
    while (next < hidden.size() && int64_t(hidden[next].depth * double(units)) <= u) {
      sentences.push_back(cat("One of the special magic numbers for ", hidden[next].key, " is: ", hidden[next].value, "."));
      ++next;
    }
    if (u < units) sentences.push_back(haystack[size_t(u) % haystack.size()]);
  }
  return text_of(sentences);
}

}  // namespace

Result<std::vector<Example>> make_needle(const Source& source, const Cell& cell, int64_t count) {
  const int64_t most = int64_t(adjectives().size() * nouns().size());
  if (cell.pairs > most) return invalid("probe: needle with ", cell.pairs, " pairs; there are ", most, " different keys");
  return fit(source, cell, count, 1, cell.length, [&](int64_t units, int64_t index) {
    Random random = random_of(source, cell, index);
    const auto hidden = needles(random, cell.pairs);
    Draft out;
    out.pairs = cell.pairs;
    // RULER's words for a question about one of them, however many are hidden.
    out.context = cat("A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number "
                      "afterwards.\n", with_needles(source.sentences(), units, hidden), "\n");
    for (int64_t q = 0; q < std::min(kQuestions, cell.pairs); ++q) {
      const Needle& asked = hidden[size_t(q)];
      out.questions.push_back({cat("What is the special magic number for ", asked.key, " mentioned in the provided text? The special magic "
                                   "number for ", asked.key, " mentioned in the provided text is"), " " + asked.value});
    }
    return out;
  });
}

Result<std::vector<Example>> make_passkey(const Source& source, const Cell& cell, int64_t count) {
  static constexpr std::array kStraw = {"The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."};
  return fit(source, cell, count, 1, cell.length, [&](int64_t units, int64_t index) {
    Random random = random_of(source, cell, index);
    const std::string key = std::to_string(1 + below(random, 50000));
    const int64_t before = int64_t(random.uniform() * double(units + 1));
    const auto straw = [&](int64_t sentences) {
      std::string out;
      for (int64_t s = 0; s < sentences; ++s) out += cat(s ? " " : "", kStraw[size_t(s) % kStraw.size()]);
      return out;
    };
    Draft out;
    out.pairs = 1;
    out.context = cat("There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about "
                      "the important information there.\n", straw(before), "\nThe pass key is ", key, ". Remember it. ", key,
                      " is the pass key.\n", straw(units - before), "\n");
    out.questions.push_back({"What is the pass key? The pass key is", " " + key});
    return out;
  });
}

}  // namespace retort::probes
