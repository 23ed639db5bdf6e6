// The harness's table: groups with their members below them, then the other tasks; a row a metric.
#include <algorithm>
#include <functional>
#include <set>

#include "base/format.h"
#include "eval/tasks/results.h"
#include "io/utf8.h"

namespace retort::harness {
namespace {

struct Line {
  std::string name;
  int depth;
};

// The order of the table's rows: by name, children after their group.
std::vector<Line> ordered(const Json& results, const std::string& column) {
  const Json& subtasks = results["group_subtasks"];
  std::set<std::string> children, placed, names;
  for (const auto& [group, members] : subtasks.items()) {
    for (const Json& member : members) children.insert(member.get<std::string>());
    names.insert(group);
  }
  std::vector<Line> out;
  const std::function<void(const std::string&, int)> visit = [&](const std::string& name, int depth) {
    placed.insert(name);
    if (results[column].contains(name)) out.push_back({name, depth});
    if (!subtasks.contains(name)) return;
    auto members = subtasks[name].get<std::vector<std::string>>();
    std::sort(members.begin(), members.end());
    for (const auto& member : members) visit(member, depth + 1);
  };
  for (const auto& name : names) {
    if (!children.count(name)) visit(name, 0);
  }
  names.clear();
  for (const auto& [name, value] : results[column].items()) names.insert(name);
  for (const auto& name : names) {
    if (!placed.count(name)) out.push_back({name, 0});
  }
  return out;
}

using Cells = std::vector<std::string>;

// Names of columns are centred, numbers stand on the right.
std::string markdown(const Cells& head, const std::vector<Cells>& rows, const std::vector<bool>& right) {
  std::vector<size_t> width;
  for (size_t c = 0; c < head.size(); ++c) {
    width.push_back(std::max<size_t>(3, utf8::count(head[c])));
    for (const Cells& row : rows) width[c] = std::max(width[c], utf8::count(row[c]));
  }
  std::string out;
  for (size_t c = 0; c < head.size(); ++c) {
    const size_t room = width[c] - utf8::count(head[c]);
    out += "|" + std::string(room / 2, ' ') + head[c] + std::string(room - room / 2, ' ');
  }
  out += "|\n";
  for (size_t c = 0; c < head.size(); ++c) out += "|" + std::string(width[c] - right[c], '-') + (right[c] ? ":" : "");
  out += "|\n";
  for (const Cells& row : rows) {
    for (size_t c = 0; c < head.size(); ++c) {
      const std::string pad(width[c] - utf8::count(row[c]), ' ');
      out += "|" + (right[c] ? pad + row[c] : row[c] + pad);
    }
    out += "|\n";
  }
  return out;
}

// The harness's table writer drops zeros that no number of the column needs: 0.5250 and 0.4750 become 0.525 and 0.475. Beside "N/A" whole
// numbers lose their point by themselves.
void drop_zeros(std::vector<Cells>& rows, size_t column, bool numbers_only) {
  const auto decimals = [](const std::string& cell) {
    const size_t point = cell.find('.'), last = cell.find_last_not_of('0');
    return point == std::string::npos ? size_t(0) : last - point;
  };
  size_t most = 0;
  for (const Cells& row : rows) most = std::max(most, decimals(row[column]));
  for (Cells& row : rows) {
    std::string& cell = row[column];
    const size_t point = cell.find('.');
    if (point == std::string::npos) continue;
    const size_t kept = !numbers_only && decimals(cell) == 0 ? 0 : most;
    cell.resize(kept > 0 ? point + 1 + kept : point);
  }
}

}  // namespace

std::string results_table(const Json& results, const std::string& column) {
  const Cells head = {column == "groups" ? "Groups" : "Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"};
  std::vector<Cells> rows;
  bool every_error = true;
  for (const auto& [name, depth] : ordered(results, column)) {
    const Json& metrics = results[column][name];
    std::string shown = metrics["alias"].get<std::string>();
    if (depth > 0) shown = std::string(size_t(depth), ' ') + "- " + shown;
    const Json& given = results["versions"][name];  // the harness has texts for groups
    std::string version = given.is_string() ? given.get<std::string>() : cat(given.get<double>());
    // A group of groups has neither.
    const bool has_examples = results["n-shot"].contains(name), has_direction = results["higher_is_better"].contains(name);
    std::set<std::string> keys;
    constexpr std::string_view kNoFilter = ",none";
    for (const auto& [key, value] : metrics.items()) {
      const bool metric = key.ends_with(kNoFilter) && !key.ends_with("_stderr,none");
      if (metric) keys.insert(key.substr(0, key.size() - kNoFilter.size()));
    }
    for (const auto& key : keys) {
      const Json& error = metrics[key + "_stderr,none"];
      every_error = every_error && error.is_number();
      const std::string direction = !has_direction ? "" : results["higher_is_better"][name][key].get<bool>() ? "↑" : "↓";
      rows.push_back({shown, version, "none", has_examples ? cat(results["n-shot"][name].get<int64_t>()) : "", key, direction, format_fixed(metrics[key + ",none"].get<double>(), 4),
                      "±", error.is_number() ? format_fixed(error.get<double>(), 4) : "   N/A"});
      shown.clear();
      version.clear();
    }
  }
  drop_zeros(rows, 6, true);
  drop_zeros(rows, 8, every_error);
  return markdown(head, rows, {false, true, false, true, false, false, true, false, every_error});
}

}  // namespace retort::harness
