#include "cli/report/comparison_page.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/format.h"
#include "cli/report/plot.h"

namespace retort::cli {
namespace {

using Rows = std::span<const harness::ComparisonRow>;

std::string direction(bool higher_is_better) { return higher_is_better ? "higher is better" : "lower is better"; }

// Wide enough that the names of the tasks can be read.
Size size_for(size_t groups) { return groups <= 5 ? Size{} : Size{980, 320}; }

// A ratio to nothing has no bar.
std::optional<double> finite(double value) { return std::isfinite(value) ? std::optional(value) : std::nullopt; }

// Every metric has a chart: they are not of one scale.
std::vector<std::string> metric_drawings(Rows rows) {
  std::vector<std::string> metrics, out;
  for (const auto& row : rows) {
    if (std::find(metrics.begin(), metrics.end(), row.metric) == metrics.end()) metrics.push_back(row.metric);
  }
  for (const auto& metric : metrics) {
    BarPlot plot;
    for (const auto& row : rows) {
      if (row.metric != metric || row.is_part) continue;
      plot.title = cat(metric, " (", direction(row.higher_is_better), ")");
      plot.groups.push_back({row.task, 1, finite(row.teacher.value), finite(row.student.value), row.teacher.error.value_or(0), row.student.error.value_or(0)});
    }
    plot.before_name = "teacher";
    plot.after_name = "student";
    plot.y_label = metric;
    out.push_back(draw(plot, size_for(plot.groups.size())));
  }
  return out;
}

std::string ratio_drawing(Rows rows, bool higher_is_better) {
  BarPlot plot;
  plot.title = cat("Student to teacher (", direction(higher_is_better), ")");
  plot.y_label = "ratio";
  plot.line = 1;
  plot.line_name = "teacher";
  for (const auto& row : rows) {
    if (row.is_part || row.higher_is_better != higher_is_better) continue;
    plot.groups.push_back({cat(row.task, " ", row.metric), higher_is_better ? 1 : 2, {}, finite(row.ratio.value), 0, row.ratio.error.value_or(0)});
  }
  return draw(plot, size_for(plot.groups.size()));
}

}  // namespace

std::string with_error(const harness::Estimate& estimate, int digits) {
  return format_fixed(estimate.value, digits) + (estimate.error ? " ± " + format_fixed(*estimate.error, digits) : "");
}

nlohmann::ordered_json estimate_json(const harness::Estimate& estimate) {
  using Json = nlohmann::ordered_json;
  return {{"value", estimate.value}, {"stderr", estimate.error ? Json(*estimate.error) : Json("N/A")}};
}

Cells comparison_table(Rows rows) {
  Cells out = {{"task", "metric", "", "student", "teacher", "ratio"}};
  for (const auto& row : rows) {
    out.push_back({row.task, row.metric, row.higher_is_better ? "↑" : "↓", with_error(row.student, 4), with_error(row.teacher, 4),
                   with_error(row.ratio, 4)});
  }
  return out;
}

nlohmann::ordered_json comparison_json(Rows rows) {
  auto out = nlohmann::ordered_json::array();
  for (const auto& row : rows) {
    out.push_back({{"task", row.task}, {"metric", row.metric}, {"higher_is_better", row.higher_is_better},
                   {"student", estimate_json(row.student)}, {"teacher", estimate_json(row.teacher)}, {"ratio", estimate_json(row.ratio)}});
  }
  return out;
}

std::string comparison_page(const std::string& student, const std::string& teacher, const std::string& settings, Rows rows) {
  std::string out = cat("<h1>", escape(student), " beside ", escape(teacher), "</h1>\n<p class=\"quiet\">", escape(settings), "</p>\n");
  out += section("Benchmarks", "Lines at a bar: one standard error.", charts(metric_drawings(rows)));
  out += section("Ratio", "Its error is that of the same documents on both sides: what is hard for both does not count.",
                 charts({ratio_drawing(rows, true), ratio_drawing(rows, false)}));
  out += section("Numbers", "", html_table(comparison_table(rows)));
  return page(student + " beside " + teacher, out);
}

}  // namespace retort::cli
