#include "eval/copy_recall.h"

namespace retort {

std::vector<int> repeated_passages(std::span<const int> tokens, const CopyRecallOptions& options) {
  const int64_t passages = std::min(options.passages, int64_t(tokens.size()) / options.length);
  std::vector<int> repeated;
  for (int64_t p = 0; p < passages; ++p) {
    const auto passage = tokens.subspan(size_t(p * (int64_t(tokens.size()) / passages)), size_t(options.length));
    for (int copy = 0; copy < 2; ++copy) repeated.insert(repeated.end(), passage.begin(), passage.end());
  }
  return repeated;
}

Result<PerplexityResult> copy_recall(Engine& engine, std::span<const int> tokens, const CopyRecallOptions& options,
                                     const PerplexityProgress& progress) {
  if (options.length < 1 || options.passages < 1) {
    return invalid("copy recall: ", options.passages, " passages of ", options.length, " tokens; expected at least 1 of each");
  }
  const std::vector<int> repeated = repeated_passages(tokens, options);
  if (repeated.empty()) {
    return invalid("copy recall: the text has ", tokens.size(), " tokens; a passage takes ", options.length);
  }
  return perplexity(engine, repeated, {2 * options.length, options.batch_rows, options.length}, progress);
}

}  // namespace retort
