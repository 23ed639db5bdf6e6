// Decoding speed at several contexts, of one model or of several: the machine drifts, so they take turns of a few tokens each and
// their medians count.
//
// Layer: eval. Not thread-safe.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "runtime/model.h"
#include "runtime/sequence.h"

namespace retort {

// A sequence that has read `context` tokens.
struct FilledContext {
  int64_t context = 0;
  double prefill = 0;  // tokens per second from the empty state to here
  Engine* engine = nullptr;
  Sequence sequence;
  int next = 0;  // the likeliest token
};

struct DecodingRate {
  double median = 0, slowest = 0, fastest = 0;  // tokens per second, over the turns
};

// One sequence that reads `tokens`, over and over, kept at every one of the ascending contexts. What was read is not remembered
// anywhere but in its state, so memory grows as that does. `progress` is told the position and
// stops it by returning false (kInterrupted).
Result<std::vector<FilledContext>> fill_contexts(Engine& engine, std::span<const int> tokens, std::span<const int64_t> contexts,
                                                 const std::function<bool(int64_t position)>& progress);

// `turns` times, and once before to warm up: every context in turn decodes `tokens` tokens greedily, always from where it was filled to,
// in each of the numbers of sequences in `parallel`, which share the passes. [contexts][parallel]; rates are of all sequences together.
Result<std::vector<std::vector<DecodingRate>>> decode_in_turn(std::span<const FilledContext> contexts, std::span<const int> parallel,
                                                              int tokens, int turns);

}  // namespace retort
