// Names of a recipe's choices, as tables.
//
// Layer: train, torch-free. Private to the recipe's readers.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/suggest.h"
#include "io/yaml_fields.h"

namespace retort::train {

struct Named {
  const char* name;
  int value;
};

// The value of a name, or the first error of the source.
template <class Enum>
void choose(YamlSource& source, const YAML::Node& node, const std::string& key, const char* what, std::span<const Named> known,
            const std::string& name, Enum& value) {
  std::vector<std::string> names;
  for (const auto& entry : known) {
    if (name == entry.name) {
      value = Enum(entry.value);
      return;
    }
    names.emplace_back(entry.name);
  }
  source.fail(node, key, "unknown ", what, " '", name, "'", suggestion(name, names));
}

template <class Enum>
const char* name_of(std::span<const Named> known, Enum value) {
  for (const auto& entry : known) {
    if (entry.value == int(value)) return entry.name;
  }
  return "none";
}

// A key whose value is one of a few names.
template <class Enum>
void read_name(YamlSource& source, YamlFields& fields, const char* key, const char* what, std::span<const Named> known, Enum& value) {
  std::string name;
  fields.text(key, name);
  if (!name.empty()) choose(source, fields.take(key), fields.key_of(key), what, known, name, value);
}

}  // namespace retort::train
