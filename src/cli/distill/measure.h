// What a plan measures: of every model perplexities, the copy probe and a sample of its text; of all of them side by side decoding
// speed and state.
//
// Layer: cli. Not thread-safe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/distill/plan.h"

namespace retort::cli {

// Text to measure on: a name and a file that `retort perplexity --text` gives the same numbers for.
struct EvaluationText {
  std::string name;
  std::string file;
};

using Say = std::function<void(const std::string& what)>;  // progress

// {"mixers", "kept", "perplexity", "copy_perplexity", "perplexities": [{corpus, window, perplexity, tokens}], "sample",
// "weights", "activations"}. The first text is the kind that was trained on.
Result<nlohmann::ordered_json> measure_model(const std::string& model, const EvaluationPlan& plan, const std::vector<EvaluationText>& texts,
                                             const Context& context, const Say& say);

// For every model [{context, tokens_per_second, state_bytes}]. All are held in memory at once and decode in turn.
Result<std::vector<nlohmann::ordered_json>> measure_speed(const std::vector<std::string>& models, const EvaluationPlan& plan,
                                                          const EvaluationText& text, const Context& context, const Say& say);

// Only the perplexity at the first window of the first text.
Result<double> measure_perplexity(const std::string& model, const EvaluationPlan& plan, const EvaluationText& text, const Context& context);

}  // namespace retort::cli
