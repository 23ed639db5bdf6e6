// Flags that change a recipe before it is read.
#include <algorithm>
#include <span>
#include <sstream>

#include "base/suggest.h"
#include "train/recipe_parts.h"

namespace retort::train {
namespace {

// Sets root.a.b.c = value; sections that are missing on the way are made.
Status set_path(YAML::Node node, std::span<const std::string> path, const YAML::Node& value, const Override& change) {
  if (!node.IsMap() && !node.IsNull()) return invalid(change.flag, ": '", path.front(), "' is inside something that holds no keys");
  if (path.size() == 1) {
    node[path.front()] = value;
    return {};
  }
  if (!node[path.front()]) node[path.front()] = YAML::Node(YAML::NodeType::Map);
  YAML::Node child = node[path.front()];
  return set_path(child, path.subspan(1), value, change);
}

// A budget that a flag gives replaces the stage's other budgets.
void drop_other_budgets(YAML::Node stage, const std::string& given) {
  for (const char* name : kBudgets) {
    if (given != name) stage.remove(name);
  }
}

}  // namespace

Status apply_override(YAML::Node& root, const Override& change) {
  std::vector<std::string> path;
  std::stringstream split(change.key);
  for (std::string piece; std::getline(split, piece, '.');) path.push_back(piece);
  if (path.empty() || std::any_of(path.begin(), path.end(), [](const auto& p) { return p.empty(); })) {
    return invalid(change.flag, ": expected stage.key=value, student.key=value or key=value");
  }
  YAML::Node value;
  try {
    value = YAML::Load(change.value);
  } catch (const YAML::Exception& error) {
    return invalid(change.flag, ": the value is not YAML: ", error.msg);
  }
  // Fields are a mixer's own: another one starts from its defaults.
  if (change.key == "student.mixer" && root["student"].IsMap()) {
    const YAML::Node before = root["student"]["mixer"];
    if (!before || !before.IsScalar() || before.Scalar() != change.value) root["student"].remove("config");
  }
  if (path.size() == 1 || path[0] == "student" || path[0] == "data" || path[0] == "defaults") return set_path(root, path, value, change);
  std::vector<std::string> names = {"student", "data", "defaults"};
  if (!root["stages"].IsSequence()) return {};  // which read_stages() says
  for (auto stage : root["stages"]) {
    if (!stage.IsMap() || !stage["name"] || !stage["name"].IsScalar()) continue;
    names.push_back(stage["name"].Scalar());
    if (names.back() != path[0]) continue;
    if (path.size() == 2 && is_budget(path[1])) drop_other_budgets(stage, path[1]);
    return set_path(stage, std::span(path).subspan(1), value, change);
  }
  return invalid(change.flag, ": unknown stage '", path[0], "'", suggestion(path[0], names));
}

}  // namespace retort::train
