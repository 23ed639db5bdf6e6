// Tells when a loss has stopped falling.
//
// Layer: train, torch-free. Plain values.
//
// Losses of steps are averaged over `every` steps, one mean after the other; a mean is better when it is lower than the best before it by
// more than `threshold` times that one. More than `patience` means in a row that are no better are a plateau, and counting begins
// anew from there, as PyTorch's ReduceLROnPlateau does with the loss of an evaluation.
#pragma once

#include <cstdint>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/recipe.h"

namespace retort::train {

class Plateau {
 public:
  explicit Plateau(const PlateauSpec& spec) : spec_(spec) {}

  // The loss of one more step; true where a plateau is reached. What is not finite counts for nothing.
  bool add(double loss);
  // Another loss is measured from here on.
  void reset() { *this = Plateau(spec_); }

  // Where it stands, exactly.
  nlohmann::json cursor() const;
  Status restore(const nlohmann::json& cursor);

 private:
  PlateauSpec spec_;
  double sum_ = 0;                  // of the mean that is being taken
  int64_t steps_ = 0, worse_ = 0;   // worse_: means in a row that were no better
  std::optional<double> best_;
};

}  // namespace retort::train
