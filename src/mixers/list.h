// Every mixer there is. Adding one: write its header, name it here; tests, benches, --help and docs walk this list.
//
// Layer: mixers.
#pragma once

#include <type_traits>

#include "mixers/attention.h"
#include "mixers/deltanet.h"
#include "mixers/discrete_mamba2.h"
#include "mixers/gated_deltanet.h"
#include "mixers/gla.h"
#include "mixers/hedgehog.h"
#include "mixers/hgrn2.h"
#include "mixers/mamba.h"
#include "mixers/mamba2.h"
#include "mixers/metala.h"
#include "mixers/mlstm.h"
#include "mixers/part.h"
#include "mixers/rebased.h"
#include "mixers/retnet.h"
#include "mixers/rwkv7.h"
#include "mixers/slots.h"

namespace retort {

template <class... Mixers>
struct TypeList {};
using MixerList = TypeList<Attention, Window, Slots, Mlstm, Gla, Hgrn2, Retnet, Mamba, Mamba2, Metala, DeltaNet, Rebased, Hedgehog,
                           DiscreteMamba2, GatedDeltaNet, Rwkv7>;

template <class Mixer>
struct MixerTag {
  using type = Mixer;
};

// Calls fn(MixerTag<M>{}) for every mixer.
template <class Fn, class... Mixers>
void for_each_in(TypeList<Mixers...>, Fn&& fn) {
  (fn(MixerTag<Mixers>{}), ...);
}
template <class Fn>
void for_each_mixer(Fn&& fn) {
  for_each_in(MixerList{}, std::forward<Fn>(fn));
}

// Calls fn(MixerTag<M>{}) for the mixer with that name; false when there is none.
template <class Fn>
bool visit_mixer(const std::string& name, Fn&& fn) {
  bool found = false;
  for_each_mixer([&](auto tag) {
    if (!found && name == decltype(tag)::type::kName) {
      found = true;
      fn(tag);
    }
  });
  return found;
}

// "attention, window, gla, ...": for error messages and --help.
std::string mixer_names();

// A mixer's Config from its JSON fields; unknown fields, values out of range and values that do not go together (Config::check(), where the
// mixer has one) are errors that name the fields and the rule.
template <class Mixer>
Result<typename Mixer::Config> parse_config(const nlohmann::json& fields);
// All fields, defaults included.
template <class Mixer>
nlohmann::json config_json(const typename Mixer::Config& config);

PartShape part_shape(const ModelConfig& config, const Part& part);

// The part's tensor table; the plan must be valid.
std::vector<TensorSpec> part_tensors(const ModelConfig& config, const Part& part);
// What the names in that table are prefixed with: "model.layers.3.self_attn." for a plain attention layer,
// "model.layers.3.mixer." for any other layer of one part, "model.layers.3.mixer.parts.1." otherwise.
std::string part_prefix(const ModelConfig& config, int layer, int part);

// Every tensor of the model, by its full name, parts included. An untied head is "lm_head.weight".
std::vector<TensorSpec> model_tensors(const ModelConfig& config);

// Sizes, ownership of kv heads, mixer names and their fields. Fills in every part's missing config fields.
Status validate_plan(ModelConfig& config);

// Hash of everything that trainer and runtime must agree on: sizes, rope, plan, tensor names and shapes. 16 hex digits.
std::string fingerprint(const ModelConfig& config);

// ---------------------------------------------------------------------------------------------------------------------------

namespace detail {

struct ConfigReader {
  const nlohmann::json& fields;
  Status status;
  size_t known = 0;

  template <class T, class L, class M>
  void operator()(const char* name, T& value, L least, M most) {
    if (!status.ok() || !fields.contains(name)) return;
    ++known;
    const auto& field = fields.at(name);
    const bool right_type = std::is_integral_v<T> ? field.is_number_integer() : field.is_number();
    if (!right_type) {
      constexpr auto kAnyBytes = nlohmann::json::error_handler_t::replace;
      const std::string given = field.is_primitive() ? field.dump(-1, ' ', false, kAnyBytes) : field.type_name();
      status = invalid("field '", name, "' is ", given, "; expected a ", std::is_integral_v<T> ? "whole number" : "number");
      return;
    }
    const double number = field.template get<double>();
    if (!(number >= double(least) && number <= double(most))) {
      status = invalid("field '", name, "' is ", number, "; expected ", least, " to ", most);
      return;
    }
    value = field.template get<T>();
  }
};

struct ConfigWriter {
  nlohmann::json& fields;
  template <class T, class L, class M>
  void operator()(const char* name, T& value, L, M) {
    fields[name] = value;
  }
};

struct ConfigNames {
  std::vector<std::string>& names;
  template <class T, class L, class M>
  void operator()(const char* name, T&, L, M) {
    names.push_back(name);
  }
};

}  // namespace detail

template <class Mixer>
Result<typename Mixer::Config> parse_config(const nlohmann::json& fields) {
  typename Mixer::Config config;
  if (!fields.is_object()) return invalid("the fields of mixer '", Mixer::kName, "' must be an object");
  detail::ConfigReader reader{fields, {}};
  config.visit(reader);
  if (!reader.status.ok()) return invalid("mixer '", Mixer::kName, "': ", reader.status.error().message);
  if (reader.known != fields.size()) {
    std::vector<std::string> names;
    config.visit(detail::ConfigNames{names});
    std::string list;
    for (const auto& n : names) list += (list.empty() ? "" : ", ") + n;
    for (const auto& [key, value] : fields.items()) {
      bool known = false;
      for (const auto& n : names) known = known || n == key;
      if (!known) {
        return invalid("mixer '", Mixer::kName, "' has no field '", key, "'; it has: ", list.empty() ? "none" : list);
      }
    }
  }
  if constexpr (requires { config.check(); }) {
    if (const Status fits = config.check(); !fits.ok()) return invalid("mixer '", Mixer::kName, "': ", fits.error().message);
  }
  return config;
}

template <class Mixer>
nlohmann::json config_json(const typename Mixer::Config& config) {
  auto copy = config;
  nlohmann::json fields = nlohmann::json::object();
  copy.visit(detail::ConfigWriter{fields});
  return fields;
}

}  // namespace retort
