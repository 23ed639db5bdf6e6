#include "io/export/roundings.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace retort {
namespace {

// Differences of bit patterns, modulo 2^32: defined for any two floats.
int32_t bits_between(float from, float to) { return static_cast<int32_t>(std::bit_cast<uint32_t>(to) - std::bit_cast<uint32_t>(from)); }

Result<std::vector<int32_t>> read_list(const nlohmann::json& said, const TensorSpec& spec, const std::string& where) {
  if (!said.is_array() || static_cast<int64_t>(said.size()) != spec.count()) {
    return invalid(where, ": the roundings of '", spec.name, "' are not a list of ", spec.count(), " numbers");
  }
  std::vector<int32_t> out;
  out.reserve(said.size());
  for (const auto& number : said) {
    using Limits = std::numeric_limits<int32_t>;
    const bool fits = number.is_number_integer() && number >= Limits::min() && number <= Limits::max();
    if (!fits) return invalid(where, ": the roundings of '", spec.name, "' are not whole numbers of 32 bits");
    out.push_back(number.get<int32_t>());
  }
  return out;
}

}  // namespace

Result<Roundings> find_roundings(const ExportPlan& plan, const TensorValues& values) {
  Roundings out;
  for (const ExportTensor& tensor : plan.tensors) {
    for (const ExportPiece& piece : tensor.pieces) {
      if (!rounds(piece.change) || out.count(piece.source)) continue;
      RETORT_TRY(const std::vector<float> ours, values(piece.source));
      std::vector<int32_t> missing;
      missing.reserve(ours.size());
      for (float v : ours) missing.push_back(bits_between(restored(piece.change, changed(piece.change, v)), v));
      if (std::any_of(missing.begin(), missing.end(), [](int32_t bits) { return bits != 0; })) out.emplace(piece.source, std::move(missing));
    }
  }
  return out;
}

Result<Roundings> read_roundings(const nlohmann::json& said, const ModelConfig& config, const std::string& where) {
  if (!said.is_object()) return invalid(where, ": the roundings are ", said.type_name(), "; expected an object");
  const SpecsByName specs = specs_by_name(config);
  Roundings out;
  for (const auto& [name, list] : said.items()) {
    const auto spec = specs.find(name);
    if (spec == specs.end()) return invalid(where, ": roundings of '", name, "', which this model has not");
    RETORT_TRY(out[name], read_list(list, spec->second, where));
  }
  return out;
}

void add_rounding(std::vector<float>& values, const std::vector<int32_t>& rounding) {
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(values[i]) + static_cast<uint32_t>(rounding[i]));
  }
}

}  // namespace retort
