#include "cli/text_input.h"

#include <iostream>
#include <iterator>

#include "base/mapped_file.h"
#include "io/corpus.h"

namespace retort::cli {

Result<std::string> read_text_input(const std::string& path) {
  if (path != "-") return read_text_file(path);
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (std::cin.bad()) return io_error("standard input cannot be read");
  return text;
}

Result<std::vector<int>> corpus_tokens(const std::vector<std::string>& paths, const Tokenizer& tokenizer, int64_t most, const char* flag) {
  std::vector<int> out;
  for (const std::string& path : paths) {
    RETORT_TRY(CorpusReader reader, CorpusReader::open(path));
    while (int64_t(out.size()) < most) {
      RETORT_TRY(const auto document, reader.next());
      if (!document) break;
      auto ids = tokenizer.encode(document->text, {.add_special = true, .parse_special = false});
      if (!ids.ok()) return invalid(document->where, ": ", ids.error().message);
      out.insert(out.end(), ids->begin(), ids->end());
    }
  }
  if (int64_t(out.size()) > most) out.resize(size_t(most));
  if (out.size() < 2) return invalid(flag, " ", paths.front(), ": ", out.size(), " tokens; at least 2 are needed");
  return out;
}

std::string input_name(const std::string& path) { return path == "-" ? "standard input" : path; }

}  // namespace retort::cli
