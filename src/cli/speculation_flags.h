// Flags of the commands that speculate, with llama.cpp's names, and what they open.
//
// Layer: cli.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "cli/open_model.h"
#include "runtime/speculation.h"

namespace retort::cli {

struct SpeculationFlags {
  std::string type;   // --spec-type; empty: draft when there is a draft model, else none
  std::string draft;  // -md
  int most = 4;       // --spec-draft-n-max
};
void add_speculation_flags(CLI::App& app, SpeculationFlags& flags);

// Who guesses, opened once; each sequence gets a draft of its own. The draft's files and weights outlive it through shared ownership.
struct OpenedDrafts {
  std::string type;
  std::function<std::unique_ptr<Draft>(const SamplingOptions& sampling, uint64_t seed)> make;
};
// Nothing when the flags ask for none. A draft whose tokens are not the target's is an error.
Result<std::optional<OpenedDrafts>> open_drafts(const SpeculationFlags& flags, const OpenedModel& target, const Tokenizer& tokenizer);

struct OpenedSpeculation {
  std::string type;
  int most = 0;
  Speculation speculation;
};
Result<std::optional<OpenedSpeculation>> open_speculation(const SpeculationFlags& flags, const OpenedModel& target,
                                                          const Tokenizer& tokenizer, const SamplingOptions& sampling, uint64_t seed);

nlohmann::ordered_json speculation_json(const OpenedSpeculation& opened);
// "41 of 120 guesses accepted (34 %), 1.37 tokens per step"
std::string speculation_line(const SpeculationStats& stats);

}  // namespace retort::cli
