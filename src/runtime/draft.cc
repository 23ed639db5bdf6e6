#include "runtime/draft.h"

#include <algorithm>

#include "runtime/session.h"

namespace retort {

Status NgramDraft::propose(std::span<const int> tokens, int64_t count, std::vector<Guess>& guesses) {
  const int64_t n = int64_t(tokens.size());
  int64_t longest = least_ - 1, from = n;
  for (int64_t end = n - 1; end > 0 && longest < most_; --end) {  // the token at `end` follows the match
    int64_t length = 0;
    while (length < most_ && length < end && tokens[size_t(end - 1 - length)] == tokens[size_t(n - 1 - length)]) ++length;
    if (length > longest) longest = length, from = end;
  }
  for (int64_t i = from; i < std::min(n, from + count); ++i) guesses.push_back({tokens[size_t(i)], {}});
  return {};
}

ModelDraft::ModelDraft(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions options, const SamplingOptions& sampling,
                       uint64_t seed)
    : engine_(model, pool, options), sampler_(sampling, seed), sequence_(model->new_sequence()), before_(model->new_sequence()) {}

// To where the fed tokens and the text agree, short of the text's last token: something must be fed to have logits.
void ModelDraft::go_back(std::span<const int> tokens) {
  const auto differ = std::mismatch(fed_.begin(), fed_.end(), tokens.begin(), tokens.end() - 1);
  const int64_t common = differ.first - fed_.begin();
  if (common < int64_t(fed_.size()) && !sequence_.cut(common)) {
    if (common < before_.position()) before_.reset();
    sequence_ = before_;
  }
  fed_.resize(size_t(sequence_.position()));
}

Status ModelDraft::feed(std::span<const int> tokens) {
  for (size_t done = 0; done < tokens.size();) {
    const size_t count = std::min(tokens.size() - done, size_t(Session::kPrefillRows));
    const BatchItem item{&sequence_, tokens.subspan(done, count), done + count == tokens.size() ? WantLogits::kLast : WantLogits::kNone};
    RETORT_RETURN_IF_ERROR(engine_.forward({&item, 1}, [&](const LogitsRows& rows) {
      logits_.assign(rows.data, rows.data + engine_.model().config().vocab_size);
    }));
    done += count;
  }
  fed_.insert(fed_.end(), tokens.begin(), tokens.end());
  return {};
}

Result<bool> ModelDraft::catch_up(std::span<const int> tokens, int64_t most) {
  if (tokens.empty()) return true;
  go_back(tokens);
  if (int64_t(tokens.size() - fed_.size()) <= most) return true;
  RETORT_RETURN_IF_ERROR(feed(tokens.subspan(fed_.size(), size_t(most))));
  return false;
}

Status ModelDraft::propose(std::span<const int> tokens, int64_t count, std::vector<Guess>& guesses) {
  if (tokens.empty()) return {};
  go_back(tokens);
  RETORT_RETURN_IF_ERROR(feed(tokens.subspan(fed_.size())));
  if (sequence_.layout().fixed_numbers() > 0) before_ = sequence_;
  history_.assign(tokens.begin(), tokens.end());
  for (int64_t i = 0; i < count; ++i) {
    const auto candidates = sampler_.distribution(logits_, history_);
    const int token = sampler_.draw(candidates);
    guesses.push_back({token, {candidates.begin(), candidates.end()}});
    history_.push_back(token);
    if (i + 1 < count) RETORT_RETURN_IF_ERROR(feed({&token, 1}));
  }
  return {};
}

}  // namespace retort
