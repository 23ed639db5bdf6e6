// Samplers.
#include <algorithm>
#include <cmath>
#include <limits>

#include "capi/handles.h"
#include "capi/outcome.h"

namespace retort::capi {
namespace {

constexpr retort_sampling_options kSamplingDefaults = RETORT_SAMPLING_DEFAULTS;

Result<SamplingOptions> sampling_options(const retort_sampling_options& given) {
  SamplingOptions o;
  o.temperature = given.temperature;
  o.top_k = given.top_k;
  o.top_p = given.top_p;
  o.min_p = given.min_p;
  o.repeat_penalty = given.repeat_penalty;
  o.repeat_last_n = given.repeat_last_n;
  o.presence_penalty = given.presence_penalty;
  o.frequency_penalty = given.frequency_penalty;
  RETORT_TRY(const auto biases, array_of(given.logit_bias, given.logit_bias_count, "logit_bias"));
  for (const retort_logit_bias& bias : biases) o.logit_bias.emplace_back(bias.token, bias.bias);
  RETORT_RETURN_IF_ERROR(validate(o));
  return o;
}

Outcome draw(retort_sampler* sampler, std::span<const float> logits, std::span<const int> text, int32_t* token) {
  RETORT_RETURN_IF_ERROR(not_null(sampler, "sampler"));
  RETORT_RETURN_IF_ERROR(not_null(token, "token"));
  if (logits.empty()) return invalid("there are no logits to draw from");
  if (sampler->vocabulary != 0 && sampler->vocabulary != int64_t(logits.size())) {
    return invalid("the sampler has drawn from a vocabulary of ", sampler->vocabulary, ", this one has ",
                   logits.size());
  }
  // The sampler itself would draw token 0, so that a server goes on.
  if (std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); })) return invalid("every logit is NaN: there is nothing to draw");
  sampler->vocabulary = int64_t(logits.size());
  *token = sampler->sampler.sample(logits, text);
  return {};
}

}  // namespace
}  // namespace retort::capi

using namespace retort;
using namespace retort::capi;

extern "C" {

retort_status retort_sampler_new(const retort_sampling_options* options, retort_sampler** sampler) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(sampler, "sampler"));
    *sampler = nullptr;
    RETORT_TRY(const auto given, options_of(options, kSamplingDefaults, "retort_sampling_options", "RETORT_SAMPLING_DEFAULTS"));
    RETORT_TRY(const SamplingOptions chosen, sampling_options(given));
    *sampler = new retort_sampler{Sampler(chosen, given.seed)};
    return {};
  });
}

void retort_sampler_free(retort_sampler* sampler) { delete sampler; }

retort_status retort_sampler_draw(retort_sampler* sampler, const retort_session* session, int32_t* token) {
  return guarded([&]() -> Outcome {
    const float* logits = retort_session_logits(session);
    if (!logits) return RETORT_INVALID;  // it has said why
    std::span<const float> from{logits, session->session.logits().size()};
    std::vector<float> of_tokens;  // a copy only where there is something to leave out
    if (const auto& none = session->core->no_tokens; !none.empty()) {
      of_tokens.assign(from.begin(), from.end());
      for (const int32_t id : none) of_tokens[size_t(id)] = std::numeric_limits<float>::quiet_NaN();
      from = of_tokens;
    }
    return draw(sampler, from, session->session.tokens(), token);
  });
}

retort_status retort_sampler_draw_from(retort_sampler* sampler, const float* logits, int64_t vocabulary,
                                       const int32_t* text, int64_t count, int32_t* token) {
  return guarded([&]() -> Outcome {
    RETORT_TRY(const auto from, array_of(logits, vocabulary, "logits"));
    RETORT_TRY(const auto before, array_of(text, count, "text"));
    return draw(sampler, from, before, token);
  });
}

}  // extern "C"
