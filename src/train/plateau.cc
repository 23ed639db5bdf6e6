#include "train/plateau.h"

#include <cmath>

namespace retort::train {

bool Plateau::add(double loss) {
  if (!std::isfinite(loss)) return false;
  sum_ += loss;
  if (++steps_ < spec_.every) return false;
  const double mean = sum_ / double(steps_);
  sum_ = 0, steps_ = 0;
  if (!best_ || mean < *best_ - spec_.threshold * std::fabs(*best_)) {
    best_ = mean, worse_ = 0;
    return false;
  }
  if (++worse_ <= spec_.patience) return false;
  worse_ = 0;
  return true;
}

nlohmann::json Plateau::cursor() const {
  return {{"sum", sum_}, {"steps", steps_}, {"worse", worse_}, {"best", best_ ? nlohmann::json(*best_) : nlohmann::json()}};
}

Status Plateau::restore(const nlohmann::json& cursor) {
  const auto has = [&](const char* key, bool whole) {
    return cursor.contains(key) && (whole ? cursor[key].is_number_integer() && cursor[key].get<int64_t>() >= 0 : cursor[key].is_number());
  };
  const bool good = cursor.is_object() && has("sum", false) && has("steps", true) && has("worse", true) && cursor.contains("best") &&
                    (cursor["best"].is_null() || cursor["best"].is_number());
  if (!good) return invalid("the checkpoint's measure of a plateau makes no sense");
  sum_ = cursor["sum"].get<double>(), steps_ = cursor["steps"].get<int64_t>(), worse_ = cursor["worse"].get<int64_t>();
  best_.reset();
  if (!cursor["best"].is_null()) best_ = cursor["best"].get<double>();
  return {};
}

}  // namespace retort::train
