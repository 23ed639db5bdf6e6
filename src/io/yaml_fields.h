// Strict reading of YAML mappings: every key asked for is known, everything else is an error with file, line and a suggestion.
//
// Layer: io. Not thread-safe. The first error sticks: later reads do nothing, so a reader asks for all its fields and
// looks at the error once. yaml-cpp throws; nothing here lets an exception out.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <yaml-cpp/yaml.h>

#include "base/error.h"

namespace retort {

inline constexpr int64_t kMostCount = 9'000'000'000'000'000;  // a double still holds every whole number up to here

// What all readers of one file share.
struct YamlSource {
  std::string path;
  std::vector<std::pair<std::string, std::string>> overridden;  // dotted key -> the flag that set it
  Status status;                                                // the first error

  // "recipes/a.yaml:12", or the flag that gave the value.
  std::string where(const YAML::Node& node, const std::string& key) const;
  template <class... Args>
  void fail(const YAML::Node& node, const std::string& key, const Args&... args) {
    if (status.ok()) status = invalid(where(node, key), ": ", args...);
  }
};

class YamlFields {
 public:
  // `key` is the dotted name of the mapping ("" for the whole file), `what` names it in messages: "stage 'align'".
  YamlFields(YamlSource& source, YAML::Node node, std::string key, std::string what);

  bool has(const char* name);
  // Each leaves `value` alone when the key is absent.
  void text(const char* name, std::string& value);
  void texts(const char* name, std::vector<std::string>& value);   // one string or a list of them
  void flag(const char* name, bool& value);
  void number(const char* name, double& value, double least, double most);
  void whole(const char* name, int& value, int64_t least, int64_t most);
  void count(const char* name, int64_t& value, int64_t least, int64_t most = kMostCount);  // takes K, M and B
  void seed(const char* name, uint64_t& value);
  // The node itself, marked as known; undefined when absent.
  YAML::Node take(const char* name);
  std::string key_of(const char* name) const { return key_.empty() ? name : key_ + "." + name; }
  const YAML::Node& node() const { return node_; }
  // Complains about keys nobody asked for.
  void finish();

 private:
  bool scalar(const char* name, YAML::Node& node, const char* expected);

  YamlSource& source_;
  YAML::Node node_;
  std::string key_, what_;
  std::vector<std::string> known_;
};

// "300M" -> 300000000; false when it is not a count.
bool parse_count(const std::string& text, int64_t& value);
bool parse_number(const std::string& text, double& value);

}  // namespace retort
