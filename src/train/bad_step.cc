#include "train/bad_step.h"

#include <cmath>

#include "base/atomic_file.h"

namespace retort::train {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

}  // namespace

Status write_bad_step(const std::string& folder, const BadStep& step) {
  Json out = {{"stage", step.stage}, {"step", step.step}, {"run_step", step.run_step}, {"skipped_in_a_row", step.skipped_in_a_row},
              {"lr", number(step.lr)}, {"loss", number(step.loss)}, {"grad_norm", number(step.grad_norm)}};
  for (const auto& [name, value] : step.parts) out["loss/" + name] = number(value);
  for (const auto& loss : step.layers) {
    for (double value : loss.values) out["layers"][loss.name].push_back(number(value));
  }
  for (const auto& [seed, batch] : step.batches) {
    out["batches"].push_back({{"seed", seed}, {"rows", batch.rows}, {"seq", batch.seq}, {"starts", batch.starts}, {"tokens", batch.tokens},
                              {"labels", batch.labels}});
  }
  return write_text_file(folder + "/" + kBadStep, out.dump() + "\n");
}

}  // namespace retort::train
