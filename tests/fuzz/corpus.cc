// Any bytes as a corpus: as lines of JSON or as text, with a name that says packed or not, by the first byte; packed or not by what follows.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "io/corpus.h"
#include "io/utf8.h"

using namespace retort;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  CorpusOptions options;
  options.max_document_bytes = 1 << 20;
  const char* const names[] = {"a.txt", "a.jsonl", "a.jsonl.gz", "a.txt.zst"};
  auto reader = CorpusReader::from_memory(std::string(reinterpret_cast<const char*>(data) + 1, size - 1), names[data[0] % 4], options);
  if (!reader.ok()) return 0;
  for (int n = 0; n < 1000; ++n) {
    const auto document = reader->next();
    if (!document.ok() || !document->has_value()) break;
    if (!utf8::is_valid((*document)->text) || (*document)->where.empty()) std::abort();
  }
  return 0;
}
