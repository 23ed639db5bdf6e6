// Prints, for every mixer of the registry, what an oracle needs to compute it again: sizes, fields, tensors, input, and our output in
// double precision. One JSON object a line.
#include <cstdio>

#include "conformance/harness.h"

int main() {
  using namespace retort;
  using namespace retort::conformance;
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const int64_t rows = 24;
    const auto x = random_rows(rows, w.config.width, 9);
    const auto y = reference<Mixer>(w, ReferenceForm::kStep, x);
    nlohmann::json tensors = nlohmann::json::object();
    for (size_t i = 0; i < w.table.size(); ++i) {
      if (w.table[i].present()) tensors[w.table[i].name] = {{"shape", w.weights[i].shape}, {"values", w.weights[i].values}};
    }
    const nlohmann::json line = {{"name", w.name},
                                 {"mixer", Mixer::kName},
                                 {"fields", w.part().config},
                                 {"window", w.shape.window.size},
                                 {"sinks", w.shape.window.sinks},
                                 {"heads", w.shape.heads},
                                 {"kv_heads", w.shape.kv_heads},
                                 {"head_dim", w.shape.head_dim},
                                 {"eps", w.shape.norm_eps},
                                 {"rope_base", w.shape.rope.base},
                                 {"rows", rows},
                                 {"tensors", tensors},
                                 {"x", x.values},
                                 {"y", y.values}};
    std::printf("%s\n", line.dump().c_str());
  }, {1});
  return 0;
}
