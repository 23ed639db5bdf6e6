#include "eval/divergence.h"

#include <algorithm>
#include <cmath>

#include "eval/perplexity.h"

namespace retort {
namespace {

constexpr int64_t kPassRows = 128;

struct RowScore {
  double kl = 0, nll_base = 0, nll = 0;
  bool same_top = false;
};

RowScore score(std::span<const float> base, std::span<const float> model, int target) {
  const double norm_base = log_normalizer(base).value, norm = log_normalizer(model).value;
  RowScore out;
  size_t top_base = 0, top = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const double log_base = double(base[i]) - norm_base;
    if (log_base > -40) out.kl += std::exp(log_base) * (log_base - (double(model[i]) - norm));
    if (base[i] > base[top_base]) top_base = i;
    if (model[i] > model[top]) top = i;
  }
  out.nll_base = norm_base - double(base[size_t(target)]);
  out.nll = norm - double(model[size_t(target)]);
  out.same_top = top == top_base;
  return out;
}

// One pass of a model; its logits [tokens, vocabulary].
Status all_logits(Engine& engine, Sequence& sequence, std::span<const int> tokens, std::vector<float>& logits) {
  logits.clear();
  const BatchItem item{&sequence, tokens, WantLogits::kAll};
  return engine.forward({&item, 1}, [&](const LogitsRows& rows) {
    logits.insert(logits.end(), rows.data, rows.data + rows.count * engine.model().config().vocab_size);
  });
}

}  // namespace

double Divergence::perplexity_base() const { return std::exp(nll_base / double(std::max<int64_t>(tokens, 1))); }
double Divergence::perplexity() const { return std::exp(nll / double(std::max<int64_t>(tokens, 1))); }

DivergenceBase::DivergenceBase(Engine& engine, std::span<const int> tokens, int64_t window, int64_t most_bytes)
    : engine_(engine), tokens_(tokens), window_(window),
      keeps_(int64_t(tokens.size()) <= most_bytes / int64_t(sizeof(float)) / engine.model().config().vocab_size),
      state_(engine.model().new_sequence()) {}

Result<std::span<const float>> DivergenceBase::rows(int64_t at, int64_t count, bool begins) {
  if (at == 0) read_ = 0;
  const size_t call = read_++;
  if (call < kept_.size()) return std::span<const float>(kept_[call]);
  if (begins) state_.reset();
  RETORT_RETURN_IF_ERROR(all_logits(engine_, state_, tokens_.subspan(size_t(at), size_t(count)), now_));
  if (!keeps_) return std::span<const float>(now_);
  return std::span<const float>(kept_.emplace_back(std::move(now_)));
}

Result<Divergence> DivergenceBase::compare(Engine& model, const std::function<bool(int64_t)>& progress) {
  const size_t vocabulary = size_t(model.model().config().vocab_size);
  if (size_t(engine_.model().config().vocab_size) != vocabulary) {
    return invalid("a vocabulary of ", vocabulary, " beside one of ", engine_.model().config().vocab_size, "; models are compared over the same tokens");
  }
  if (window_ < 2) return invalid("a window of ", window_, " tokens; at least 2 are needed");
  Sequence state = model.model().new_sequence();
  std::vector<float> logits;
  std::vector<RowScore> scores;
  std::vector<double> kls;
  Divergence out;
  for (int64_t first = 0; first + 1 < int64_t(tokens_.size()); first += window_) {
    state.reset();
    ++out.windows;
    const int64_t end = std::min<int64_t>(first + window_, int64_t(tokens_.size())) - 1;  // the last token is only predicted
    for (int64_t at = first; at < end; at += kPassRows) {
      const int64_t count = std::min(kPassRows, end - at);
      RETORT_TRY(const auto base_logits, rows(at, count, at == first));
      RETORT_RETURN_IF_ERROR(all_logits(model, state, tokens_.subspan(size_t(at), size_t(count)), logits));
      scores.resize(size_t(count));
      model.pool().parallel_for(count, 1, [&](int64_t begin, int64_t last) {
        for (int64_t r = begin; r < last; ++r) {
          const auto a = base_logits.subspan(size_t(r) * vocabulary, vocabulary), b = std::span<const float>(logits).subspan(size_t(r) * vocabulary, vocabulary);
          scores[size_t(r)] = score(a, b, tokens_[size_t(at + r + 1)]);
        }
      });
      for (const RowScore& s : scores) {
        out.nll_base += s.nll_base, out.nll += s.nll, out.same_top += s.same_top;
        kls.push_back(s.kl);
      }
      out.tokens += count;
      if (progress && !progress(at + count)) return Error{ErrorCode::kInterrupted, "interrupted"};
    }
  }
  for (double kl : kls) out.kl_mean += kl / double(kls.size());
  std::sort(kls.begin(), kls.end());
  if (!kls.empty()) out.kl_largest = kls.back(), out.kl_999 = kls[std::min(kls.size() - 1, size_t(0.999 * double(kls.size())))];
  return out;
}

Result<Divergence> divergence(Engine& base, Engine& model, std::span<const int> tokens, int64_t window, const std::function<bool(int64_t)>& progress) {
  return DivergenceBase(base, tokens, window, 0).compare(model, progress);
}

}  // namespace retort
