#include "train/logit_rows.h"

#include <algorithm>
#include <cmath>

#include "base/clones.h"
#include "train/row_math.h"

namespace retort::train::rows {
namespace {

// Columns whose sums are taken in f32; those of the stretches in f64.
constexpr int64_t kStretch = 4096;

// NaN where one is not finite.
RETORT_CLONES float largest_of(const uint16_t* x, int64_t n) {
  float top[kLanes], odd[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) top[i] = -3e38f;
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float value = widen(x[c + i]);
      top[i] = top[i] > value ? top[i] : value;
      odd[i] += value - value;
    }
  }
  for (; c < n; ++c) {
    const float value = widen(x[c]);
    top[0] = top[0] > value ? top[0] : value;
    odd[0] += value - value;
  }
  return *std::max_element(top, top + kLanes) + lane_sum(odd);
}

// exp((x - largest) scale) to y; returns their sum.
RETORT_CLONES double exponentials(const uint16_t* x, float largest, float scale, float* y, int64_t n) {
  double sum = 0;
  for (int64_t first = 0; first < n; first += kStretch) {
    const int64_t end = std::min(n, first + kStretch);
    float lanes[kLanes] = {};
    int64_t c = first;
    for (; c + kLanes <= end; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        y[c + i] = fast_exp((widen(x[c + i]) - largest) * scale);
        lanes[i] += y[c + i];
      }
    }
    for (; c < end; ++c) lanes[0] += y[c] = fast_exp((widen(x[c]) - largest) * scale);
    sum += double(lane_sum(lanes));
  }
  return sum;
}

// Sum of p (x - largest).
RETORT_CLONES double expected(const float* p, const uint16_t* x, float largest, int64_t n) {
  double sum = 0;
  for (int64_t first = 0; first < n; first += kStretch) {
    const int64_t end = std::min(n, first + kStretch);
    float lanes[kLanes] = {};
    int64_t c = first;
    for (; c + kLanes <= end; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) lanes[i] += p[c + i] * (widen(x[c + i]) - largest);
    }
    for (; c < end; ++c) lanes[0] += p[c] * (widen(x[c]) - largest);
    sum += double(lane_sum(lanes));
  }
  return sum;
}

// y (+)= a x - b z; z may be null.
RETORT_CLONES void combine(bool add, float a, const float* x, float b, const float* z, float* y, int64_t n) {
  if (!z) {
    for (int64_t c = 0; c < n; ++c) y[c] = (add ? y[c] : 0.0f) + a * x[c];
  } else if (add) {
    for (int64_t c = 0; c < n; ++c) y[c] += a * x[c] - b * z[c];
  } else {
    for (int64_t c = 0; c < n; ++c) y[c] = a * x[c] - b * z[c];
  }
}

RETORT_CLONES void narrow_all(const float* x, uint16_t* y, int64_t n) {
  for (int64_t c = 0; c < n; ++c) y[c] = narrow(x[c]);
}

}  // namespace

void LogitRow::begin(const uint16_t* logits) {
  logits_ = logits;
  empty_ = true;
}

LogitRow::Soft LogitRow::add_soft(const uint16_t* teacher, float temperature, float weight) {
  const float scale = 1 / temperature, q_top = largest_of(logits_, columns_), p_top = largest_of(teacher, columns_);
  const double q_sum = exponentials(logits_, q_top, scale, student_.data(), columns_);
  const double p_sum = exponentials(teacher, p_top, scale, teacher_.data(), columns_);
  const double q_mean = expected(teacher_.data(), logits_, q_top, columns_) / p_sum, p_mean = expected(teacher_.data(), teacher, p_top, columns_) / p_sum;
  combine(!empty_, float(weight / q_sum), student_.data(), float(weight / p_sum), teacher_.data(), gradient_.data(), columns_);
  empty_ = false;
  return {std::log(q_sum) - q_mean * scale, std::log(p_sum) - p_mean * scale};
}

double LogitRow::add_hard(int64_t token, float weight) {
  const float top = largest_of(logits_, columns_);
  const double sum = exponentials(logits_, top, 1, student_.data(), columns_);
  combine(!empty_, float(weight / sum), student_.data(), 0, nullptr, gradient_.data(), columns_);
  gradient_[size_t(token)] -= weight;
  empty_ = false;
  return std::log(sum) - double(widen(logits_[token]) - top);
}

void LogitRow::end(uint16_t* gradient) const {
  if (empty_) std::fill(gradient, gradient + columns_, uint16_t(0));
  else narrow_all(gradient_.data(), gradient, columns_);
}

}  // namespace retort::train::rows
