#include "train/start_volume.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "mixers/list.h"

namespace retort::train {
namespace {

// The tensor that says how loud the recurrence is, and what a factor does to its numbers.
struct Volume {
  enum class Curve { kLinear, kSilu, kSigmoid, kExponential };
  size_t tensor = 0;
  size_t output = 0;  // W_O
  Curve curve = Curve::kLinear;
  bool by_head = false;
  bool is_output() const { return tensor == output; }
};

std::optional<Volume> find_volume(const PartWeights& part) {
  std::optional<Volume> volume;
  visit_mixer(part.part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    if constexpr (Mixer::kRecurrent) {
      const size_t output = Mixer::kOutput, own = Mixer::kWeightCount;  // the join's tensors follow the mixer's own
      if (part.shape.window.size > 0) {
        const bool one_normaliser = part.table[own + size_t(join::kGamma)].present();
        volume = {own + size_t(join::kGateBias), output, one_normaliser ? Volume::Curve::kExponential : Volume::Curve::kSigmoid, true};
        return;
      }
      for (size_t i = 0; i < part.table.size(); ++i) {
        const TensorSpec& spec = part.table[i];
        if (!spec.present() || spec.init.size() != 1 || spec.init[0].measure == InitBlock::Measure::kNone) continue;
        const bool gate = spec.init[0].measure == InitBlock::Measure::kGateOfHeadRms;
        volume = {i, output, gate ? Volume::Curve::kSilu : Volume::Curve::kLinear, spec.heads == HeadAxis::kQueryRows};
      }
      if (!volume) volume = {output, output, Volume::Curve::kLinear, true};
    }
  });
  return volume;
}

// The number whose curve is c times that of x.
double turned(Volume::Curve curve, double x, double c) {
  const double sigmoid = 1 / (1 + std::exp(-x)), least = 1e-30;
  switch (curve) {
    case Volume::Curve::kLinear: return c * x;
    case Volume::Curve::kSilu: return inverse_silu(c * x * sigmoid);
    case Volume::Curve::kSigmoid: {
      const double y = std::max(c * sigmoid, least);
      return std::log(y / (1 - y));
    }
    case Volume::Curve::kExponential: return x + std::log(std::max(c, least));
  }
  return x;
}

// `start` with every head's numbers turned by its c, or all by the only one.
at::Tensor turn(const Volume& volume, const at::Tensor& start, const std::vector<double>& c) {
  if (volume.is_output()) {
    const at::Tensor columns = torch::tensor(c, at::kFloat).view({1, -1, 1});
    return (start.view({start.size(0), columns.size(1), -1}) * columns).view_as(start);
  }
  at::Tensor result = start.clone();
  const int64_t block = start.numel() / int64_t(c.size());
  float* numbers = result.data_ptr<float>();
  for (int64_t i = 0; i < start.numel(); ++i) numbers[i] = float(turned(volume.curve, numbers[i], c[size_t(i / block)]));
  return result;
}

// The least squares above: c^T G c - 2 b^T c + missing.
struct Fit {
  at::Tensor g, b;  // [n, n], [n], double
  double missing = 0;
};

// By box-constrained coordinate descent; G is small and positive semidefinite.
std::vector<double> least_squares(const Fit& fit) {
  const int64_t n = fit.b.size(0);
  const auto g = fit.g.accessor<double, 2>();
  const auto b = fit.b.accessor<double, 1>();
  std::vector<double> c(size_t(n), 1.0);
  constexpr int kSweeps = 100;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (int64_t i = 0; i < n; ++i) {
      if (g[i][i] <= 0) continue;
      double rest = b[i];
      for (int64_t j = 0; j < n; ++j) rest -= j == i ? 0 : g[i][j] * c[size_t(j)];
      const double least = std::min(1.0, kLeastVolume * std::sqrt(fit.missing / (double(n) * g[i][i])));
      c[size_t(i)] = std::clamp(rest / g[i][i], least, 1.0);
    }
  }
  return c;
}

}  // namespace

double inverse_silu(double y) {
  double x = y;
  for (int i = 0; i < 50; ++i) {
    const double sigmoid = 1 / (1 + std::exp(-x));
    x = std::max(0.0, x - (x * sigmoid - y) / (sigmoid * (1 + x * (1 - sigmoid))));
  }
  return x;
}

void settle_volume(const PartWeights& attention, std::span<const at::Tensor> inputs, std::span<const Rows> rows, Numeric numeric, PartWeights& part) {
  const auto volume = find_volume(part);
  if (!volume) return;
  const at::NoGradGuard no_grad;
  const int64_t heads = part.shape.heads;
  const size_t n = volume->by_head ? size_t(heads) : 1;
  at::Tensor& value = part.values[volume->tensor];
  const at::Tensor start = value;
  const at::Tensor w = part.values[volume->output].to(at::kDouble), square = at::matmul(w.t(), w);
  // Sums over one head's or all heads' rows and columns of x o W_O^T W_O: what x, a product of heads' outputs, is behind W_O.
  const auto behind_output = [&](const at::Tensor& x) { return (x * square).view({heads, -1, heads, w.size(1) / heads}).sum({1, 3}); };
  const auto run = [&](size_t i) { return run_part(part, inputs[i], rows[i], numeric, /*before_output=*/true).to(at::kDouble); };

  std::vector<int64_t> own;
  for (int h = 0; h < heads; ++h) own.push_back(part.shape.layer_head(h));
  std::vector<at::Tensor> silent, missing;  // [T, H V]: without the recurrence, and what the teacher's heads have more
  value = turn(*volume, start, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor without = run(i);
    silent.push_back(volume->is_output() ? at::zeros_like(without) : without);  // what comes before W_O does not know its c
    const at::Tensor teacher = run_part(attention, inputs[i], rows[i], numeric, /*before_output=*/true).to(at::kDouble);
    const at::Tensor heard = teacher.view({teacher.size(0), attention.shape.heads, -1}).index_select(1, torch::tensor(own, at::kLong));
    missing.push_back(heard.flatten(1) - silent.back());
  }
  const auto fit = [&] {
    at::Tensor ff = at::zeros_like(square), fe = at::zeros_like(square), ee = at::zeros_like(square);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const at::Tensor f = run(i) - silent[i];
      ff += at::matmul(f.t(), f), fe += at::matmul(f.t(), missing[i]), ee += at::matmul(missing[i].t(), missing[i]);
    }
    Fit result{behind_output(ff), behind_output(fe).sum(1), behind_output(ee).sum().item<double>()};
    if (n == 1) result.g = result.g.sum().view({1, 1}), result.b = result.b.sum().view({1});
    return result;
  };

  value = start;
  Fit now = fit();
  if (now.g.sum().item<double>() <= 2 * now.b.sum().item<double>()) return;  // nearer to the teacher with it than without
  // Under one normaliser the share is not linear in c, and falls more slowly: several rounds.
  const int rounds = volume->curve == Volume::Curve::kExponential ? 4 : 1;
  std::vector<double> c(n, 1.0);
  for (int round = 0; round < rounds; ++round) {
    if (round > 0) now = fit();
    const auto factor = least_squares(now);
    for (size_t h = 0; h < n; ++h) c[h] *= factor[h];
    value = turn(*volume, start, c);
  }
}

}  // namespace retort::train
