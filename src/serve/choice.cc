#include "serve/choice.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace retort::serve {
namespace {

// JSON has no infinities, and clients add these up.
double finite(double logprob) { return std::isfinite(logprob) ? logprob : -9999; }

// How many of the bytes came out of a TextStream as `text`, which has ill-formed parts replaced.
size_t bytes_of(std::string_view bytes, const std::string& text) {
  size_t length = bytes.size();
  while (length > 0 && utf8::repair(bytes.substr(0, length)) != text) --length;
  return length;
}

}  // namespace

ScoredToken score(std::span<const float> logits, int token, int top) {
  const float most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double(logit) - double(most));
  const double shift = double(most) + std::log(sum);
  ScoredToken out{token, true, finite(double(logits[size_t(token)]) - shift), {}};
  if (top <= 0) return out;
  std::vector<int> best;  // likeliest first; of equals the one that comes first
  for (int i = 0; i < int(logits.size()); ++i) {
    if (int(best.size()) == top && !(logits[size_t(i)] > logits[size_t(best.back())])) continue;
    const auto at = std::upper_bound(best.begin(), best.end(), logits[size_t(i)], [&](float v, int b) { return v > logits[size_t(b)]; });
    best.insert(at, i);
    if (int(best.size()) > top) best.pop_back();
  }
  for (const int i : best) out.top.emplace_back(i, finite(double(logits[size_t(i)]) - shift));
  return out;
}

std::vector<std::string> bytes_of_tokens(const Tokenizer& tokenizer) {
  std::vector<std::string> out(tokenizer.size());
  for (int id = 0; id < int(out.size()); ++id) {
    if (!tokenizer.is_special(id)) out[size_t(id)] = tokenizer.token_bytes(id);
  }
  return out;
}

Choice::Choice(const GenerationRequest& request, int index, int64_t room, const Tokenizer& tokenizer, const std::vector<std::string>& token_bytes)
    : index_(index), top_logprobs_(request.top_logprobs), most_(std::min(request.max_tokens, room)), ignore_eos_(request.ignore_eos), json_(request.json),
      tokenizer_(&tokenizer), token_bytes_(&token_bytes), tokens_(request.prompt), sampler_(request.sampling, request.seed + uint64_t(index)), text_(request.stops) {}

// The logits of tokens that keep the text JSON; no number for all others, which the sampler passes over. False: there are none.
bool Choice::mask(std::span<const float> logits) {
  masked_.assign(logits.size(), std::numeric_limits<float>::quiet_NaN());
  bool any = false;
  for (size_t id = 0; id < std::min(logits.size(), token_bytes_->size()); ++id) {
    const std::string& bytes = (*token_bytes_)[id];
    if (bytes.empty() || std::isnan(logits[id]) || !JsonGuard(guard_).accept(bytes)) continue;
    masked_[id] = logits[id];
    any = true;
  }
  return any;
}

void Choice::draw(std::span<const float> logits, GenerationUpdate& update) {
  if (made_ == most_) return end(Finish::kLength, update);
  if (json_ && !mask(logits)) return end(Finish::kStop, update);
  const int token = sampler_.sample(json_ ? std::span<const float>(masked_) : logits, tokens_);
  tokens_.push_back(token);
  ++made_;
  bool last = tokenizer_->is_eog(token) && !ignore_eos_;
  const std::string bytes = tokenizer_->is_special(token) || last ? std::string() : tokenizer_->token_bytes(token);
  if (json_) {
    guard_.accept(bytes);
    last = guard_.complete();
  }
  held_.push_back({top_logprobs_ >= 0 ? score(logits, token, top_logprobs_) : ScoredToken{token, false, 0, {}}, bytes_, bytes.size()});
  bytes_ += bytes.size();
  uncertain_ += bytes;
  add_text(text_.push(bytes), update);
  if (text_.stopped()) {
    release(update);
    update.finish = Finish::kStop;
  } else if (last || made_ == most_) {
    end(last ? Finish::kStop : Finish::kLength, update);
  } else {
    release(update);
  }
}

void Choice::end(Finish reason, GenerationUpdate& update) {
  add_text(text_.finish(), update);
  release(update);
  update.finish = reason;
}

void Choice::add_text(const std::string& text, GenerationUpdate& update) {
  update.text += text;
  uncertain_.erase(0, bytes_of(uncertain_, text));
}

// A token goes out when the first of its bytes does: so nothing of a stop text is seen in the tokens either.
void Choice::release(GenerationUpdate& update) {
  const size_t certain = bytes_ - uncertain_.size();
  while (!held_.empty() && (held_.front().bytes == 0 ? held_.front().begin <= certain : held_.front().begin < certain)) {
    update.tokens.push_back(std::move(held_.front().token));
    held_.pop_front();
  }
}

}  // namespace retort::serve
