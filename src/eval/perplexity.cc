#include "eval/perplexity.h"

#include <chrono>
#include <cmath>
#include <iterator>
#include <numeric>

#include "base/interrupt.h"
#include "kernels/elementwise.h"

namespace retort {
namespace {

struct TokenWindow {
  int64_t index, first, count;  // tokens [first, first + count)
};

// A row that asked for logits: where its score goes.
struct ScoredRow {
  int64_t window, position;
  int target;                   // -1: not scored
};

// One pass's worth of windows, fed in slices of the same length so that each stays a segment of the batch.
class WindowBatch {
 public:
  WindowBatch(Engine& engine, std::span<const int> tokens, const PerplexityOptions& options)
      : engine_(engine), tokens_(tokens), options_(options) {}

  Status run(std::span<const TokenWindow> windows, PerplexityResult& result, const LogitsRowSink& sink) {
    while (sequences_.size() < windows.size()) sequences_.push_back(engine_.model().new_sequence());
    for (auto& sequence : sequences_) sequence.reset();
    const int64_t slice = std::max<int64_t>(1, options_.batch_rows / int64_t(windows.size()));
    for (int64_t start = 0; start < windows.front().count; start += slice) {
      std::vector<BatchItem> items;
      rows_.clear();
      for (size_t i = 0; i < windows.size(); ++i) {
        const int64_t count = std::min(slice, windows[i].count - start);
        if (count <= 0) continue;
        items.push_back({&sequences_[i], tokens_.subspan(windows[i].first + start, count), WantLogits::kAll});
        for (int64_t t = start; t < start + count; ++t) {
          const bool scored = t + 1 < windows[i].count && t + 1 >= options_.score_from;
          rows_.push_back({windows[i].index, t, scored ? tokens_[windows[i].first + t + 1] : -1});
        }
      }
      RETORT_RETURN_IF_ERROR(engine_.forward(items, [&](const LogitsRows& rows) { score(rows, result, sink); }));
      if (interrupted()) return interrupted_error();
    }
    return {};
  }

 private:
  void score(const LogitsRows& rows, PerplexityResult& result, const LogitsRowSink& sink) {
    const int64_t vocabulary = engine_.model().config().vocab_size;
    scores_.assign(size_t(rows.count), 0.0);
    engine_.pool().parallel_for(rows.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const ScoredRow& row = rows_[rows.first + r];
        if (row.target >= 0) scores_[r] = negative_log_likelihood({rows.data + r * vocabulary, size_t(vocabulary)}, row.target);
      }
    });
    for (int64_t r = 0; r < rows.count; ++r) {
      const ScoredRow& row = rows_[rows.first + r];
      if (sink) sink(row.window, row.position, {rows.data + r * vocabulary, size_t(vocabulary)});
      if (row.target < 0) continue;
      result.nll += scores_[r];
      ++result.scored;
    }
  }

  Engine& engine_;
  std::span<const int> tokens_;
  const PerplexityOptions& options_;
  std::vector<Sequence> sequences_;
  std::vector<ScoredRow> rows_;
  std::vector<double> scores_;
};

}  // namespace

double PerplexityResult::perplexity() const { return std::exp(mean()); }

LogNormalizer log_normalizer(std::span<const float> logits) {
  thread_local std::vector<float> shifted;
  shifted.resize(logits.size());
  const float most = elementwise().exp_minus_max(logits.data(), int64_t(logits.size()), shifted.data());
  double sums[8] = {};  // several, so that no addition waits for the one before it
  size_t i = 0;
  for (; i + 8 <= shifted.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += double(shifted[i + j]);
  }
  for (; i < shifted.size(); ++i) sums[0] += double(shifted[i]);
  const double sum = std::accumulate(std::begin(sums), std::end(sums), 0.0);
  return {std::log(sum) + double(most), most};
}

double negative_log_likelihood(std::span<const float> logits, int target) {
  return log_normalizer(logits).value - double(logits[target]);
}

Result<PerplexityResult> perplexity(Engine& engine, std::span<const int> tokens, const PerplexityOptions& options,
                                    const PerplexityProgress& progress, const LogitsRowSink& sink) {
  if (options.context < 2) return invalid("perplexity: a window of ", options.context, " tokens; at least 2 are needed");
  if (tokens.size() < 2) return invalid("perplexity: the text has ", tokens.size(), " tokens; at least 2 are needed");
  std::vector<TokenWindow> windows;
  for (int64_t first = 0; first + 1 < int64_t(tokens.size()); first += options.context) {
    windows.push_back({int64_t(windows.size()), first, std::min<int64_t>(options.context, int64_t(tokens.size()) - first)});
  }
  const auto started = std::chrono::steady_clock::now();
  PerplexityResult result;
  WindowBatch batch(engine, tokens, options);
  const size_t at_once = size_t(std::max<int64_t>(1, options.batch_rows / options.context));
  for (size_t i = 0; i < windows.size();) {
    const size_t count = std::min(at_once, windows.size() - i);
    RETORT_RETURN_IF_ERROR(batch.run(std::span(windows).subspan(i, count), result, sink));
    for (size_t end = i + count; i < end; ++i) result.tokens += windows[i].count;
    result.windows = int64_t(i);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    if (progress) progress(result.windows, result);
  }
  return result;
}

}  // namespace retort
