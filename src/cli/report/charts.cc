#include "cli/report/charts.h"

#include <algorithm>
#include <cmath>

namespace retort::cli {
namespace {

// Teacher first, then the students in their order.
template <class Fn>
void each_model(const RunResults& run, Fn&& fn) {
  fn(run.teacher, 0);
  for (size_t i = 0; i < run.students.size(); ++i) fn(run.students[i], int(i) + 1);
}

template <class Value>
LinePlot context_chart(const RunResults& run, LinePlot plot, Value value) {
  plot.x_label = "context, tokens";
  plot.log_x = plot.log_y = true;
  each_model(run, [&](const ModelResult& model, int colour) {
    Series s{model.name, colour, {}};
    for (const auto& p : model.throughput) {
      if (const auto y = value(p)) s.points.emplace_back(p.context, *y);
    }
    std::sort(s.points.begin(), s.points.end());
    plot.series.push_back(std::move(s));
  });
  return plot;
}

std::vector<std::string> corpora(const RunResults& run) {
  std::vector<std::string> names;
  each_model(run, [&](const ModelResult& model, int) {
    for (const auto& p : model.perplexities) {
      if (std::find(names.begin(), names.end(), p.corpus) == names.end()) names.push_back(p.corpus);
    }
  });
  return names;
}

}  // namespace

BarPlot perplexity_chart(const RunResults& run) {
  BarPlot plot;
  plot.title = "Perplexity on held-out text (lower is better)";
  plot.y_label = "perplexity";
  plot.before_name = "as initialised";
  plot.after_name = "as trained";
  plot.line = run.teacher.perplexity;
  plot.line_name = run.teacher.name;
  for (size_t i = 0; i < run.students.size(); ++i) {
    const auto& s = run.students[i];
    plot.groups.push_back({s.name, int(i) + 1, s.perplexity_init, s.perplexity});
  }
  return plot;
}

std::vector<LinePlot> window_charts(const RunResults& run) {
  std::vector<LinePlot> plots;
  for (const auto& corpus : corpora(run)) {
    LinePlot plot;
    plot.title = "Perplexity against the teacher's: " + (corpus.empty() ? "held-out text" : corpus);
    plot.x_label = "window, tokens";
    plot.y_label = "ratio to the teacher";
    plot.log_x = true;
    each_model(run, [&](const ModelResult& model, int colour) {
      Series s{model.name, colour, {}, colour == 0};
      for (const auto& p : model.perplexities) {
        if (p.corpus != corpus) continue;
        const auto ratio = colour == 0 ? std::optional<double>(1.0) : p.ratio;
        if (ratio) s.points.emplace_back(p.window, *ratio);
      }
      std::sort(s.points.begin(), s.points.end());
      plot.series.push_back(std::move(s));
    });
    plots.push_back(std::move(plot));
  }
  return plots;
}

BarPlot recall_chart(const RunResults& run) {
  BarPlot plot;
  plot.title = "Recall: perplexity of a repeated passage (1 is perfect)";
  plot.y_label = "perplexity of the copy";
  plot.line = run.teacher.copy_perplexity;
  plot.line_name = run.teacher.name;
  for (size_t i = 0; i < run.students.size(); ++i) {
    plot.groups.push_back({run.students[i].name, int(i) + 1, std::nullopt, run.students[i].copy_perplexity});
  }
  return plot;
}

LinePlot throughput_chart(const RunResults& run) {
  return context_chart(run, {"Decoding speed (higher is better)", "", "tokens/s"}, [](const auto& p) { return p.tokens_per_second; });
}

LinePlot state_chart(const RunResults& run) {
  return context_chart(run, {"State of one sequence (lower is better)", "", "bytes"}, [](const auto& p) { return p.state_bytes; });
}

std::string overview_svg(const RunResults& run) {
  return standalone({draw(perplexity_chart(run)), draw(throughput_chart(run)), draw(state_chart(run))}, 3);
}

}  // namespace retort::cli
