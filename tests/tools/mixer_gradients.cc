// Prints, for the same worlds and rows as mixer_tool and in the same order, the gradients of sum(output o direction) with respect to
// the input and every tensor, as the trainer's backend computes them in double precision. One JSON object a line.
#include <cstdio>

#include "conformance/trained.h"
#include "tools/mixer_worlds.h"

int main() {
  using namespace retort;
  using namespace retort::conformance;
  for_each_oracle_world([](auto tag, const World& w, const ReferenceOps::Tensor& x) {
    using Mixer = typename decltype(tag)::type;
    const auto direction = random_rows(x.rows, w.config.width, 10);
    Trained run(w.shape, w.weights, x, {x.rows}, torch::kFloat64, train::Numeric::kExact);
    const auto found = run.gradients(mixer_equation<Mixer>(w), as_torch(direction.values, {x.rows, w.config.width}, torch::kFloat64));
    nlohmann::json gradients = {{"x", values_of(found[0])}};
    size_t next = 1;
    for (const TensorSpec& spec : w.table) {
      if (!spec.present()) continue;
      const at::Tensor& gradient = found[next++];
      gradients[spec.name] = gradient.defined() ? values_of(gradient) : std::vector<double>(size_t(spec.count()), 0.0);
    }
    const nlohmann::json line = {{"name", w.name}, {"direction", direction.values}, {"gradients", gradients}};
    std::printf("%s\n", line.dump().c_str());
  });
  return 0;
}
