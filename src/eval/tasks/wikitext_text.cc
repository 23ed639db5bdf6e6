#include "eval/tasks/wikitext_text.h"

#include <utility>

#include "eval/tasks/python_text.h"

namespace retort::harness {
namespace {

// "( a )" becomes "(a)": up to the first closing mark, across lines.
std::string tighten(const std::string& text, char open, char close) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = text.find(open, at);
    const size_t end = begin == std::string::npos ? begin : text.find(close, begin + 1);
    if (end == std::string::npos) return out.append(text, at);
    out.append(text, at, begin + 1 - at).append(strip(std::string_view(text).substr(begin + 1, end - begin - 1))) += close;
    at = end + 1;
  }
  return out;
}

// The harness's rule for contractions is /' [0-9]/ with its slashes taken literally, and its replacement too.
std::string replace_slashed_digits(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text.substr(at, 3) == "/' " && at + 4 < text.size() && text[at + 3] >= '0' && text[at + 3] <= '9' && text[at + 4] == '/') {
      out += "/'[0-9]/";
      at += 5;
    } else {
      out += text[at++];
    }
  }
  return out;
}

}  // namespace

std::string wikitext_detokenized(std::string_view page) {
  using Rule = std::pair<const char*, const char*>;
  std::string text = replace_slashed_digits(replace_all(page, "s '", "s'"));
  for (const auto& [from, to] : {Rule{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}, {" : ", ": "}, {" ; ", "; "}, {" . ", ". "},
                                 {" ! ", "! "}, {" ? ", "? "}, {" , ", ", "}}) {
    text = replace_all(text, from, to);
  }
  for (const auto& [open, close] : {std::pair{'(', ')'}, {'[', ']'}, {'{', '}'}, {'"', '"'}, {'\'', '\''}}) {
    text = tighten(text, open, close);
  }
  for (const auto& [from, to] : {Rule{"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}, {" \xc2\xb0 ", "\xc2\xb0"}, {" \n", "\n"},
                                 {"\n ", "\n"}, {" N ", " 1 "}, {" 's", "'s"}}) {
    text = replace_all(text, from, to);
  }
  return text;
}

}  // namespace retort::harness
