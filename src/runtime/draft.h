// Who guesses what comes next, for speculation.h: another model, or the text itself.
//
// Layer: runtime. Not thread-safe. A draft serves one sequence and remembers of it what makes the next guess cheap; the tokens that
// it is given may jump (another prompt, another branch), and then it only loses time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/model.h"
#include "runtime/sampling.h"

namespace retort {

struct Guess {
  int token = 0;
  std::vector<Candidate> drawn_from;  // likeliest first; empty: this token and no other
};

class Draft {
 public:
  virtual ~Draft() = default;
  // For who serves others too: reads at most `most` of the tokens that it has not seen. True: propose() has no more than these to read.
  virtual Result<bool> catch_up(std::span<const int> /*tokens*/, int64_t /*most*/) { return true; }
  // At most `count` tokens that may follow `tokens`, each given those before it; fewer, or none, when nothing suggests itself.
  virtual Status propose(std::span<const int> tokens, int64_t count, std::vector<Guess>& guesses) = 0;
};

// Prompt lookup: what followed the latest earlier place where the last few tokens stood. Free, and right where text repeats itself.
class NgramDraft : public Draft {
 public:
  // The longest match counts; shorter ones than `least` do not.
  explicit NgramDraft(int64_t least = 2, int64_t most = 8) : least_(least), most_(most) {}
  Status propose(std::span<const int> tokens, int64_t count, std::vector<Guess>& guesses) override;

 private:
  int64_t least_, most_;
};

// Another model with the same tokens. Full attention alone is cut back to what the text has become; other states go back to a
// copy of the one before the guesses, and the tokens that were accepted since are fed with the next pending one, in one pass.
class ModelDraft : public Draft {
 public:
  // The guesses are drawn as the target's sampler would: the same options.
  ModelDraft(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions options, const SamplingOptions& sampling, uint64_t seed);
  Result<bool> catch_up(std::span<const int> tokens, int64_t most) override;
  Status propose(std::span<const int> tokens, int64_t count, std::vector<Guess>& guesses) override;

 private:
  void go_back(std::span<const int> tokens);
  Status feed(std::span<const int> tokens);

  Engine engine_;
  Sampler sampler_;
  Sequence sequence_;
  std::vector<int> fed_;  // what the sequence has consumed
  Sequence before_;       // after before_.position() of them; of models with more than full attention
  std::vector<float> logits_;
  std::vector<int> history_;
};

}  // namespace retort
