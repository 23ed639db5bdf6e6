// Prints a case of the selective scan, and what our float kernel makes of it: inputs, output, last state, gradients of sum(d_out y).
// One JSON object a line, one line per case. Every head has q, k, v of its own.
#include <cstdio>
#include <random>

#include <nlohmann/json.hpp>

#include "kernels/selective_scan.h"

namespace {

using retort::KernelScan;

void print_case(unsigned seed, int heads, int cells, int channels, int64_t tokens, float strongest) {
  const KernelScan spec{heads, heads, cells, channels, 0};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0.001f, 1.0f);
  const auto numbers = [](int64_t n, auto&& draw) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& e : x) e = draw();
    return x;
  };
  const auto any = [&] { return normal(random); };
  const auto q = numbers(tokens * heads * cells, any), k = numbers(tokens * heads * cells, any);
  const auto x = numbers(tokens * heads * channels, any), d_out = numbers(tokens * heads * channels, any);
  const auto step = numbers(tokens * heads * channels, [&] { return uniform(random); });
  const auto rate = numbers(heads * spec.state_size(), [&] { return -strongest * uniform(random); });
  std::vector<float> v(x.size());
  for (size_t i = 0; i < v.size(); ++i) v[i] = step[i] * x[i];
  std::vector<float> y(x.size()), state(rate.size()), dq(q.size()), dk(k.size()), dv(v.size()), dstep(step.size()), drate(rate.size());
  const retort::ScanTokens<float> in{q.data(), k.data(), v.data(), step.data()};
  for (int h = 0; h < heads; ++h) {
    retort::selective_scan_forward(spec, h, tokens, 0, in, rate.data(), state.data() + h * spec.state_size(), y.data());
    retort::selective_scan_backward(spec, h, tokens, in, rate.data(), d_out.data(), {dq.data(), dk.data(), dv.data(), dstep.data(), drate.data()});
  }
  const nlohmann::json line = {{"heads", heads}, {"cells", cells},   {"channels", channels}, {"tokens", tokens}, {"strongest", strongest},
                               {"q", q},         {"k", k},           {"x", x},               {"step", step},     {"rate", rate},
                               {"d_out", d_out}, {"y", y},           {"state", state},       {"dq", dq},         {"dk", dk},
                               {"dv", dv},       {"dstep", dstep},   {"drate", drate}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace

int main() {
  print_case(1, 2, 16, 24, 100, 1);
  print_case(2, 1, 64, 64, 70, 8);
  print_case(3, 1, 16, 8, 50, 100);
  return 0;
}
