#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/clones.h"

namespace retort::train {
namespace {

constexpr int64_t kChunk = 1 << 15;

// Factors of one step for one tensor.
struct StepFactors {
  float beta1, beta2, rate, decay, correction1, correction2, eps, clip, ema;
};

RETORT_CLONES double square_sum_of(const float* g, int64_t count) {
  // Eight sums, always combined in the same order: the result does not depend on the vector width.
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += double(g[i + lane]) * double(g[i + lane]);
  }
  for (; i < count; ++i) sums[i & 7] += double(g[i]) * double(g[i]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

RETORT_CLONES void update(float* __restrict w, float* __restrict g, float* __restrict m, float* __restrict v, int64_t count,
                          const StepFactors f) {
  for (int64_t i = 0; i < count; ++i) {
    const float grad = g[i] * f.clip;
    m[i] = f.beta1 * m[i] + (1 - f.beta1) * grad;
    v[i] = f.beta2 * v[i] + (1 - f.beta2) * grad * grad;
    w[i] -= f.rate * (m[i] * f.correction1 / (std::sqrt(v[i] * f.correction2) + f.eps) + f.decay * w[i]);
    g[i] = 0;
  }
}

RETORT_CLONES void average(float* __restrict ema, const float* __restrict w, int64_t count, float keep) {
  for (int64_t i = 0; i < count; ++i) ema[i] = keep * ema[i] + (1 - keep) * w[i];
}

}  // namespace

double GroupRates::of(TrainGroup group) const {
  switch (group) {
    case TrainGroup::kFeature: return feature;
    case TrainGroup::kGate: return gate;
    case TrainGroup::kProjection: return projection;
    case TrainGroup::kBody: break;
  }
  return body;
}

AdamW::AdamW(std::vector<Parameter> parameters, AdamSettings settings, ThreadPool& pool, ProcessGroup& group)
    : parameters_(std::move(parameters)), settings_(settings), pool_(pool), group_(group) {
  for (size_t p = 0; p < parameters_.size(); ++p) {
    const auto& values = parameters_[p].value;
    Slot slot{std::vector<float>(values.size()), std::vector<float>(values.size()), {}};
    if (settings_.ema > 0) slot.ema.assign(values.begin(), values.end());
    slots_.push_back(std::move(slot));
    const int64_t size = int64_t(values.size());
    for (int64_t first = 0; first < size; first += kChunk) chunks_.push_back({p, first, std::min(kChunk, size - first)});
    groups_ = std::max(groups_, parameters_[p].clip_group + 1);
  }
  sums_.resize(chunks_.size());
}

Status AdamW::measure(std::vector<double>& group_sums) {
  pool_.run_chunks(int64_t(chunks_.size()), [&](int64_t c) {
    const auto& chunk = chunks_[size_t(c)];
    sums_[size_t(c)] = square_sum_of(parameters_[chunk.parameter].gradient.data() + chunk.first, chunk.count);
  });
  group_sums.assign(size_t(groups_), 0.0);
  for (size_t c = 0; c < chunks_.size(); ++c) group_sums[size_t(parameters_[chunks_[c].parameter].clip_group)] += sums_[c];
  return sum(group_, group_sums);
}

Result<double> AdamW::step(const GroupRates& rates) {
  std::vector<double> clips;
  RETORT_RETURN_IF_ERROR(measure(clips));
  double total = 0;
  for (double sum : clips) total += sum;
  if (!std::isfinite(total)) {
    drop_gradients();
    return total;
  }
  for (double& sum : clips) {
    const double norm = std::sqrt(sum);
    sum = settings_.clip > 0 && norm > settings_.clip ? settings_.clip / norm : 1.0;
  }
  ++steps_;
  StepFactors common{};
  common.beta1 = float(settings_.beta1);
  common.beta2 = float(settings_.beta2);
  common.correction1 = float(1 / (1 - std::pow(settings_.beta1, double(steps_))));
  common.correction2 = float(1 / (1 - std::pow(settings_.beta2, double(steps_))));
  common.eps = float(settings_.eps);
  // A young average forgets its start quickly.
  common.ema = float(std::min(settings_.ema, (1.0 + double(steps_)) / (10.0 + double(steps_))));
  pool_.run_chunks(int64_t(chunks_.size()), [&](int64_t c) {
    const auto& chunk = chunks_[size_t(c)];
    auto& p = parameters_[chunk.parameter];
    auto& slot = slots_[chunk.parameter];
    StepFactors f = common;
    f.rate = float(rates.of(p.group));
    f.decay = p.decays ? float(settings_.weight_decay) : 0.0f;
    f.clip = float(clips[size_t(p.clip_group)]);
    float* w = p.value.data() + chunk.first;
    update(w, p.gradient.data() + chunk.first, slot.m.data() + chunk.first, slot.v.data() + chunk.first, chunk.count, f);
    if (settings_.ema > 0) average(slot.ema.data() + chunk.first, w, chunk.count, f.ema);
  });
  return std::sqrt(total);
}

void AdamW::drop_gradients() {
  for (auto& p : parameters_) std::fill(p.gradient.begin(), p.gradient.end(), 0.0f);
}

void AdamW::take_average() {
  if (settings_.ema <= 0 || steps_ == 0) return;
  for (size_t p = 0; p < parameters_.size(); ++p) std::copy(slots_[p].ema.begin(), slots_[p].ema.end(), parameters_[p].value.begin());
}

std::vector<StateTensor> AdamW::state() {
  std::vector<StateTensor> out;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    out.push_back({"m/" + parameters_[p].name, slots_[p].m});
    out.push_back({"v/" + parameters_[p].name, slots_[p].v});
    if (settings_.ema > 0) out.push_back({"ema/" + parameters_[p].name, slots_[p].ema});
  }
  return out;
}

int64_t AdamW::parameter_count() const {
  int64_t count = 0;
  for (const auto& p : parameters_) count += int64_t(p.value.size());
  return count;
}

}  // namespace retort::train
