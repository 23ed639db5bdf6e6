#include "eval/decoding_speed.h"

#include <algorithm>

#include "base/interrupt.h"
#include "base/timing.h"
#include "kernels/elementwise.h"

namespace retort {
namespace {

// Tokens per second of the next `count` ones.
Result<double> decode_once(const FilledContext& at, int count) {
  Session session = at.session.clone();
  const auto started = Clock::now();
  for (int i = 0; i < count; ++i) {
    session.commit(int(elementwise().argmax(session.logits().data(), int64_t(session.logits().size()))));
    RETORT_RETURN_IF_ERROR(session.consume());
    if (interrupted()) return interrupted_error();
  }
  return count / seconds_since(started);
}

}  // namespace

Result<std::vector<FilledContext>> fill_contexts(Engine& engine, std::span<const int> tokens, std::span<const int64_t> contexts,
                                                 const std::function<bool(int64_t position)>& progress) {
  if (tokens.empty()) return invalid("decoding speed: no tokens to fill a context with");
  std::vector<FilledContext> out;
  Session session(engine);
  double seconds = 0;
  for (const int64_t context : contexts) {
    const int64_t before = session.sequence().position();
    for (int64_t i = before; i < context; ++i) session.commit(tokens[size_t(i) % tokens.size()]);
    const auto started = Clock::now();
    RETORT_RETURN_IF_ERROR(session.consume([&](int64_t done) { return progress(before + done); }));
    seconds += seconds_since(started);
    if (!progress(context)) return interrupted_error();
    out.push_back({context, double(context) / seconds, session.clone()});
  }
  return out;
}

Result<std::vector<DecodingRate>> decode_in_turn(std::span<const FilledContext> contexts, int tokens, int turns) {
  std::vector<std::vector<double>> rates(contexts.size());
  for (int turn = 0; turn < turns + 1; ++turn) {
    for (size_t c = 0; c < contexts.size(); ++c) {
      RETORT_TRY(const double rate, decode_once(contexts[c], tokens));
      if (turn > 0) rates[c].push_back(rate);
    }
  }
  std::vector<DecodingRate> out;
  for (const auto& r : rates) out.push_back({median(r), *std::min_element(r.begin(), r.end()), *std::max_element(r.begin(), r.end())});
  return out;
}

}  // namespace retort
