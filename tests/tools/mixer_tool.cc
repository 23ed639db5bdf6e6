// Prints, for every mixer of the registry, what an oracle needs to compute it again: sizes, fields, tensors, input; and our output and
// last state in double precision. One JSON object a line.
#include <cstdio>

#include "tools/mixer_worlds.h"

namespace retort::conformance {
namespace {

// {values, shape [G, K, columns]} of the one recurrence's state; columns are V, or V and the normaliser. Null without a recurrence.
template <class Mixer>
nlohmann::json state_json(const World& w, const ReferenceState& state) {
  if constexpr (!Mixer::kRecurrent) {
    return nullptr;
  } else {
    const RecurrenceSpec spec = part_recurrence<Mixer>(*parse_config<Mixer>(w.part().config), w.shape);
    std::vector<double> values;
    for (const ReferenceSlot& slot : state.slots) {
      values.insert(values.end(), slot.sum.begin(), slot.sum.end());
      for (const ReferenceRankOne& head : slot.erasing) {
        for (const auto& row : head.state) values.insert(values.end(), row.begin(), row.end());
      }
    }
    return {{"values", values}, {"shape", {spec.kv_heads, spec.key_dim, int64_t(values.size()) / (spec.kv_heads * spec.key_dim)}}};
  }
}

template <class Mixer>
void print(const World& w, const ReferenceOps::Tensor& x) {
  ReferenceState state;
  const auto y = reference<Mixer>(w, ReferenceForm::kStep, {{&state, x.rows}}, x);
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
                               {"rows", x.rows},
                               {"tensors", tensors},
                               {"x", x.values},
                               {"y", y.values},
                               {"state", state_json<Mixer>(w, state)}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace
}  // namespace retort::conformance

int main() {
  using namespace retort;
  conformance::for_each_oracle_world([](auto tag, const conformance::World& w, const ReferenceOps::Tensor& x) {
    conformance::print<typename decltype(tag)::type>(w, x);
  });
  return 0;
}
