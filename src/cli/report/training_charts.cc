#include "cli/report/training_charts.h"

#include <algorithm>
#include <cmath>

#include "base/format.h"
#include "base/error.h"

namespace retort::cli {
namespace {

constexpr size_t kMostPoints = 300;
constexpr size_t kFewSteps = 20;       // their points are drawn
constexpr size_t kMostOpen = 3;        // stages that a page shows unfolded
constexpr int kTotal = 0, kRate = 5, kSpeed = 6, kFirst = 3, kMiddle = 4, kLast = 1;  // colours

// Means of equal runs of steps: keeps the shape of a noisy curve and the size of the page.
template <class Value>
Series curve(const StageMetrics& stage, const std::string& name, int colour, Value&& value) {
  Series out{name, colour, {}, false, stage.points.size() < kFewSteps, {}};
  const size_t stride = std::max<size_t>(1, (stage.points.size() + kMostPoints - 1) / kMostPoints);
  for (size_t at = 0; at < stage.points.size(); at += stride) {
    double sum = 0;
    int count = 0;
    for (size_t i = at; i < std::min(stage.points.size(), at + stride); ++i) {
      if (const std::optional<double> v = value(stage.points[i])) sum += *v, ++count;
    }
    if (count) out.points.emplace_back(stage.points[std::min(stage.points.size(), at + stride) - 1].step, sum / count);
  }
  return out;
}

std::optional<double> find(const std::map<std::string, double>& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? std::nullopt : std::optional(found->second);
}

std::vector<std::string> names(const StageMetrics& stage, std::map<std::string, double> MetricPoint::*of) {
  std::vector<std::string> out;
  for (const auto& point : stage.points) {
    for (const auto& [name, value] : point.*of) {
      if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
    }
  }
  return out;
}

bool all_positive(const LinePlot& plot) {
  return std::all_of(plot.series.begin(), plot.series.end(), [](const Series& s) {
    return std::all_of(s.points.begin(), s.points.end(), [](const auto& p) { return p.second > 0; });
  });
}

LinePlot by_step(const std::string& title, const std::string& unit) {
  LinePlot plot;
  plot.title = title;
  plot.x_label = "step";
  plot.y_label = unit;
  return plot;
}

LinePlot measures_chart(const StageMetrics& stage) {
  LinePlot plot = by_step("Means that are no losses", "");
  int colour = 1;
  for (const auto& name : names(stage, &MetricPoint::measures)) {
    plot.series.push_back(curve(stage, name, colour++, [&](const MetricPoint& p) { return find(p.measures, name); }));
  }
  return plot;
}

Series of_layers(const LayerPoint& point, const std::string& loss, int colour) {
  Series out{cat("step ", point.step), colour, {}, false, true, {}};
  const auto found = point.losses.find(loss);
  if (found == point.losses.end()) return out;
  for (size_t l = 0; l < found->second.size(); ++l) {
    if (found->second[l]) out.points.emplace_back(double(l), *found->second[l]);
  }
  return out;
}

std::string stage_html(const StageMetrics& stage) {
  std::vector<std::string> drawings = {draw(loss_chart(stage))};
  for (const auto& plot : layer_charts(stage)) drawings.push_back(draw(plot));
  LinePlot rate = by_step("Learning rate", ""), speed = by_step("Speed", "tokens/s");
  rate.y_from_zero = speed.y_from_zero = true;
  rate.series.push_back(curve(stage, "lr", kRate, [](const MetricPoint& p) { return p.lr; }));
  speed.series.push_back(curve(stage, "tokens/s", kSpeed, [](const MetricPoint& p) { return p.tokens_per_s; }));
  drawings.push_back(draw(measures_chart(stage)));
  drawings.push_back(draw(rate));
  drawings.push_back(draw(speed));
  return charts(drawings);
}

}  // namespace

LinePlot loss_chart(const StageMetrics& stage) {
  LinePlot plot = by_step("Loss", "loss");
  const auto parts = names(stage, &MetricPoint::losses);
  if (parts.size() != 1) plot.series.push_back(curve(stage, "weighted sum", kTotal, [](const MetricPoint& p) { return std::optional(p.loss); }));
  int colour = 1;
  for (const auto& name : parts) plot.series.push_back(curve(stage, name, colour++, [&](const MetricPoint& p) { return find(p.losses, name); }));
  if (parts.size() == 1) plot.title += ": " + parts[0];
  plot.log_y = all_positive(plot);
  return plot;
}

std::vector<LinePlot> layer_charts(const StageMetrics& stage) {
  std::vector<LinePlot> plots;
  if (stage.layers.empty()) return plots;
  const size_t last = stage.layers.size() - 1;
  for (const auto& [name, values] : stage.layers[last].losses) {
    LinePlot plot;
    plot.title = "Layer by layer: " + name;
    plot.x_label = "layer";
    plot.y_label = "loss";
    if (last > 0) plot.series.push_back(of_layers(stage.layers[0], name, kFirst));
    if (last > 1) plot.series.push_back(of_layers(stage.layers[(last + 1) / 2], name, kMiddle));
    plot.series.push_back(of_layers(stage.layers[last], name, kLast));
    plot.log_y = all_positive(plot);
    plots.push_back(std::move(plot));
  }
  return plots;
}

Cells stage_table(const std::vector<StageMetrics>& stages) {
  Cells rows = {{"stage", "steps", "skipped", "first loss", "last loss", "tokens/s"}};
  for (const auto& stage : stages) {
    std::vector<double> speeds;
    for (const auto& p : stage.points) {
      if (p.tokens_per_s) speeds.push_back(*p.tokens_per_s);
    }
    std::sort(speeds.begin(), speeds.end());
    const auto loss = [&](bool first) {
      return stage.points.empty() ? "-" : format_significant((first ? stage.points.front() : stage.points.back()).loss, 4);
    };
    rows.push_back({stage.name, format_count(int64_t(stage.points.size() + stage.skipped.size())), format_count(int64_t(stage.skipped.size())), loss(true),
                    loss(false), speeds.empty() ? "-" : format_significant(speeds[speeds.size() / 2], 3)});
  }
  return rows;
}

std::string training_html(const std::vector<StageMetrics>& stages) {
  if (stages.empty()) return "";
  std::string out = html_table(stage_table(stages));
  for (const auto& stage : stages) {
    const std::string body = stage_html(stage);
    if (body.empty()) continue;
    if (stages.size() <= kMostOpen) out += cat("<h3>", escape(stage.name), "</h3>\n", body);
    else out += cat("<details><summary>", escape(stage.name), "</summary>\n", body, "</details>\n");
  }
  return out;
}

}  // namespace retort::cli
