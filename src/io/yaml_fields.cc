#include "io/yaml_fields.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <set>

#include "base/suggest.h"

namespace retort {

bool parse_number(const std::string& text, double& value) {
  if (text.empty() || std::isspace(static_cast<unsigned char>(text[0]))) return false;
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (*end != '\0' || !std::isfinite(number)) return false;
  value = number;
  return true;
}

bool parse_count(const std::string& text, int64_t& value) {
  if (text.empty()) return false;
  double unit = 1;
  std::string digits = text;
  switch (text.back()) {
    case 'K': case 'k': unit = 1e3; break;
    case 'M': case 'm': unit = 1e6; break;
    case 'B': case 'b': unit = 1e9; break;
    default: break;
  }
  if (unit > 1) digits.pop_back();
  double number = 0;
  if (!parse_number(digits, number)) return false;
  number *= unit;
  const double rounded = std::round(number);
  if (std::abs(number - rounded) > 1e-6 * std::max(1.0, std::abs(number)) || std::abs(rounded) > double(kMostCount)) return false;
  value = static_cast<int64_t>(rounded);
  return true;
}

std::string YamlSource::where(const YAML::Node& node, const std::string& key) const {
  for (auto set = overridden.rbegin(); set != overridden.rend(); ++set) {  // the last flag won
    if (key == set->first || key.rfind(set->first + ".", 0) == 0) return set->second;
  }
  const int line = node.IsDefined() && node.Mark().line >= 0 ? node.Mark().line + 1 : 1;
  return cat(path, ":", line);
}

YamlFields::YamlFields(YamlSource& source, YAML::Node node, std::string key, std::string what)
    : source_(source), node_(std::move(node)), key_(std::move(key)), what_(std::move(what)) {
  if (!source_.status.ok()) return;
  if (node_.IsMap()) {
    std::set<std::string> seen;
    for (const auto& entry : node_) {
      if (!entry.first.IsScalar() || seen.insert(entry.first.Scalar()).second) continue;
      source_.fail(entry.first, key_of(entry.first.Scalar().c_str()), what_, ": '", entry.first.Scalar(), "' is given twice");
    }
    return;
  }
  if (!node_.IsNull()) source_.fail(node_, key_, what_, " must be a mapping of keys to values");
  node_ = YAML::Node(YAML::NodeType::Map);
}

bool YamlFields::has(const char* name) {
  if (std::find(known_.begin(), known_.end(), name) == known_.end()) known_.push_back(name);
  const YAML::Node& node = node_;
  return source_.status.ok() && node[name].IsDefined();
}

YAML::Node YamlFields::take(const char* name) {
  if (!has(name)) return YAML::Node(YAML::NodeType::Undefined);
  return node_[name];
}

bool YamlFields::scalar(const char* name, YAML::Node& node, const char* expected) {
  if (!has(name)) return false;
  node.reset(node_[name]);
  if (node.IsScalar()) return true;
  source_.fail(node, key_of(name), what_, ": '", name, "' must be ", expected);
  return false;
}

void YamlFields::text(const char* name, std::string& value) {
  YAML::Node node;
  if (scalar(name, node, "text")) value = node.Scalar();
}

void YamlFields::texts(const char* name, std::vector<std::string>& value) {
  if (!has(name)) return;
  const YAML::Node node = node_[name];
  if (node.IsScalar()) {
    value = {node.Scalar()};
    return;
  }
  if (!node.IsSequence()) return source_.fail(node, key_of(name), what_, ": '", name, "' must be a text or a list of texts");
  value.clear();
  for (const auto& item : node) {
    if (!item.IsScalar()) return source_.fail(item, key_of(name), what_, ": '", name, "' must be a list of texts");
    value.push_back(item.Scalar());
  }
}

void YamlFields::flag(const char* name, bool& value) {
  YAML::Node node;
  if (!scalar(name, node, "true or false")) return;
  if (node.Scalar() == "true") value = true;
  else if (node.Scalar() == "false") value = false;
  else source_.fail(node, key_of(name), what_, ": '", name, "' is '", node.Scalar(), "'; expected true or false");
}

void YamlFields::number(const char* name, double& value, double least, double most) {
  YAML::Node node;
  if (!scalar(name, node, "a number")) return;
  double parsed = 0;
  if (!parse_number(node.Scalar(), parsed) || parsed < least || parsed > most) {
    return source_.fail(node, key_of(name), what_, ": '", name, "' is '", node.Scalar(), "'; expected a number from ", least, " to ", most);
  }
  value = parsed;
}

void YamlFields::whole(const char* name, int& value, int64_t least, int64_t most) {
  YAML::Node node;
  if (!scalar(name, node, "a whole number")) return;
  int64_t parsed = 0;
  if (!parse_count(node.Scalar(), parsed) || parsed < least || parsed > most) {
    return source_.fail(node, key_of(name), what_, ": '", name, "' is '", node.Scalar(), "'; expected a whole number from ", least, " to ", most);
  }
  value = static_cast<int>(parsed);
}

void YamlFields::count(const char* name, int64_t& value, int64_t least, int64_t most) {
  YAML::Node node;
  if (!scalar(name, node, "a count")) return;
  int64_t parsed = 0;
  if (!parse_count(node.Scalar(), parsed) || parsed < least || parsed > most) {
    const std::string range = most < kMostCount ? cat("from ", least, " to ", most) : cat("of at least ", least);
    return source_.fail(node, key_of(name), what_, ": '", name, "' is '", node.Scalar(), "'; expected a whole number ", range,
                        ", such as 500, 20K, 1.5M or 2B");
  }
  value = parsed;
}

void YamlFields::seed(const char* name, uint64_t& value) {
  YAML::Node node;
  if (!scalar(name, node, "a whole number")) return;
  const std::string& text = node.Scalar();
  errno = 0;
  char* end = nullptr;
  const uint64_t parsed = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos || errno != 0 || *end != '\0') {
    return source_.fail(node, key_of(name), what_, ": '", name, "' is '", text, "'; expected a whole number");
  }
  value = parsed;
}

void YamlFields::finish() {
  if (!source_.status.ok()) return;
  for (const auto& entry : node_) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    // A key that came from the defaults has no place of its own; its value has.
    const YAML::Node& place = entry.first.Mark().is_null() ? entry.second : entry.first;
    return source_.fail(place, key_of(name.c_str()), what_, ": unknown key '", name, "'", suggestion(name, known_));
  }
}

}  // namespace retort
