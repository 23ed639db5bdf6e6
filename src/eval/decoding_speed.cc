#include "eval/decoding_speed.h"

#include <algorithm>

#include "base/interrupt.h"
#include "base/timing.h"
#include "kernels/elementwise.h"
#include "runtime/session.h"

namespace retort {
namespace {

int likeliest(std::span<const float> logits) { return int(elementwise().argmax(logits.data(), int64_t(logits.size()))); }

// Tokens per second of the next `count` ones of each of `parallel` sequences.
Result<double> decode_once(const FilledContext& at, int parallel, int count) {
  std::vector<Sequence> sequences(size_t(parallel), at.sequence);
  for (Sequence& sequence : sequences) sequence.unshare();  // or all would read one memory, as no real batch does
  std::vector<int> tokens(size_t(parallel), at.next);
  std::vector<BatchItem> items;
  for (size_t i = 0; i < sequences.size(); ++i) items.push_back({&sequences[i], std::span(&tokens[i], 1)});
  const size_t vocabulary = size_t(at.engine->model().config().vocab_size);
  const auto started = Clock::now();
  for (int i = 0; i < count; ++i) {
    RETORT_RETURN_IF_ERROR(at.engine->forward(items, [&](const LogitsRows& rows) {
      for (int64_t r = 0; r < rows.count; ++r) tokens[size_t(rows.first + r)] = likeliest({rows.data + size_t(r) * vocabulary, vocabulary});
    }));
    if (interrupted()) return interrupted_error();
  }
  return double(parallel) * count / seconds_since(started);
}

}  // namespace

Result<std::vector<FilledContext>> fill_contexts(Engine& engine, std::span<const int> tokens, std::span<const int64_t> contexts,
                                                 const std::function<bool(int64_t position)>& progress) {
  if (tokens.empty()) return invalid("decoding speed: no tokens to fill a context with");
  std::vector<FilledContext> out;
  std::vector<int> chunk;
  const auto read = [&](Sequence& sequence, int64_t end, const LogitsSink& sink) {
    chunk.clear();
    for (int64_t i = sequence.position(); i < end; ++i) chunk.push_back(tokens[size_t(i) % tokens.size()]);
    return engine.forward(std::vector<BatchItem>{{&sequence, chunk, sink ? WantLogits::kLast : WantLogits::kNone}}, sink);
  };
  {
    Sequence warm_up = engine.model().new_sequence();  // the engine's memory, the processor's caches
    RETORT_RETURN_IF_ERROR(read(warm_up, std::min(Session::kPrefillRows, contexts.empty() ? 1 : contexts.back()), {}));
  }
  Sequence sequence = engine.model().new_sequence();
  double seconds = 0;
  int next = 0;
  for (const int64_t context : contexts) {
    while (sequence.position() < context) {
      const int64_t end = std::min(sequence.position() + Session::kPrefillRows, context);
      const auto take = [&](const LogitsRows& rows) { next = likeliest({rows.data, size_t(engine.model().config().vocab_size)}); };
      const auto started = Clock::now();
      RETORT_RETURN_IF_ERROR(read(sequence, end, end == context ? LogitsSink(take) : LogitsSink()));
      seconds += seconds_since(started);
      if (!progress(end)) return interrupted_error();
    }
    out.push_back({context, double(context) / seconds, &engine, sequence, next});
  }
  return out;
}

Result<std::vector<std::vector<DecodingRate>>> decode_in_turn(std::span<const FilledContext> contexts, std::span<const int> parallel,
                                                              int tokens, int turns) {
  std::vector<std::vector<DecodingRate>> out(contexts.size(), std::vector<DecodingRate>(parallel.size()));
  std::vector<std::vector<double>> rates(contexts.size() * parallel.size());
  for (int turn = 0; turn < turns + 1; ++turn) {
    for (size_t i = 0; i < rates.size(); ++i) {
      RETORT_TRY(const double rate, decode_once(contexts[i / parallel.size()], parallel[i % parallel.size()], tokens));
      if (turn > 0) rates[i].push_back(rate);
    }
  }
  for (size_t i = 0; i < rates.size(); ++i)
    out[i / parallel.size()][i % parallel.size()] = {median(rates[i]), *std::min_element(rates[i].begin(), rates[i].end()),
                                                     *std::max_element(rates[i].begin(), rates[i].end())};
  return out;
}

}  // namespace retort
