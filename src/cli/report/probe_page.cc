#include "cli/report/probe_page.h"

#include <algorithm>
#include <cmath>

#include "base/format.h"
#include "cli/report/comparison_page.h"
#include "cli/report/plot.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;
using Value = harness::Estimate probes::Score::*;

Cells cells_table(const ProbeResults& results, Value value, int digits) {
  Cells rows = {{"task", "tokens", "pairs"}};
  rows[0].insert(rows[0].end(), results.models.begin(), results.models.end());
  for (const auto& c : results.cells) {
    auto& row = rows.emplace_back(std::vector<std::string>{c.cell.task, format_count(c.cell.length), c.pairs ? format_count(c.pairs) : "-"});
    for (const auto& score : c.scores) row.push_back(with_error(score.*value, digits));
  }
  return rows;
}

std::vector<std::string> task_names(const ProbeResults& results) {
  std::vector<std::string> out;
  for (const auto& c : results.cells) {
    if (std::find(out.begin(), out.end(), c.cell.task) == out.end()) out.push_back(c.cell.task);
  }
  return out;
}

// The middle one of the different values, the lower of two.
int64_t middle_of(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values.empty() ? 0 : values[(values.size() - 1) / 2];
}

// Accuracy of the cells that `keep` lets through, over whatever `x` says.
template <class Keep, class X>
LinePlot accuracy_plot(const ProbeResults& results, LinePlot plot, Keep keep, X x) {
  plot.y_label = "accuracy";
  plot.log_x = plot.y_from_zero = true;
  plot.y_to = 1;
  for (size_t m = 0; m < results.models.size(); ++m) {
    Series s{results.models[m], int(m), {}};
    for (const auto& c : results.cells) {
      if (!keep(c)) continue;
      s.points.emplace_back(double(x(c)), c.scores[m].accuracy.value);
      s.errors.push_back(c.scores[m].accuracy.error.value_or(0));
    }
    plot.series.push_back(std::move(s));
  }
  return plot;
}

// Over length, and over pairs where the task has more than one number of them.
std::vector<std::string> task_drawings(const ProbeResults& results, const std::string& task) {
  std::vector<int64_t> lengths, pairs, counted;
  for (const auto& c : results.cells) {
    if (c.cell.task == task) lengths.push_back(c.cell.length), pairs.push_back(c.cell.pairs), counted.push_back(c.pairs);
  }
  const int64_t length = middle_of(lengths), pair = middle_of(pairs);
  const bool given = pair > 0;  // the cells are a grid; otherwise the pairs follow the length
  std::vector<std::string> out;
  out.push_back(draw(accuracy_plot(
      results, {cat(task, " over length", given ? cat(", ", pair, pair == 1 ? " pair" : " pairs") : ""), "tokens"},
      [&](const ProbeCellResult& c) { return c.cell.task == task && c.cell.pairs == pair; },
      [](const ProbeCellResult& c) { return c.cell.length; })));
  if (std::count(counted.begin(), counted.end(), counted.front()) == std::ptrdiff_t(counted.size())) return out;
  out.push_back(draw(accuracy_plot(
      results, {cat(task, " over pairs", given ? cat(", ", format_count(length), " tokens") : ", as many as fit"), "pairs"},
      [&](const ProbeCellResult& c) { return c.cell.task == task && (!given || c.cell.length == length); },
      [](const ProbeCellResult& c) { return c.pairs; })));
  return out;
}

std::string position_drawing(const ProbeResults& results) {
  LinePlot plot{"Perplexity by position", "tokens before it", "perplexity", true, true};
  for (size_t m = 0; m < results.positions.size(); ++m) {
    Series s{results.models[m], int(m), {}};
    for (const auto& bin : results.positions[m]) {
      s.points.emplace_back(std::sqrt(double(bin.first) * double(bin.end - 1)), bin.perplexity());
      s.errors.push_back(bin.error.value_or(0) * bin.perplexity());
    }
    plot.series.push_back(std::move(s));
  }
  return draw(plot, {980, 380});
}

std::string settings_line(const Json& settings) {
  std::string out;
  for (const auto& [key, value] : settings.items()) {
    if (!value.is_primitive()) continue;
    out += cat(out.empty() ? "" : " · ", key, " ", value.is_string() ? value.get<std::string>() : value.dump());
  }
  return out;
}

}  // namespace

Cells probe_table(const ProbeResults& results) { return cells_table(results, &probes::Score::accuracy, 3); }
Cells probe_likelihood_table(const ProbeResults& results) { return cells_table(results, &probes::Score::log_likelihood, 3); }

Cells position_table(const ProbeResults& results) {
  if (results.positions.empty()) return {};
  Cells rows = {{"tokens before it"}};
  rows[0].insert(rows[0].end(), results.models.begin(), results.models.end());
  for (size_t b = 0; b < results.positions.front().size(); ++b) {
    const auto& bin = results.positions.front()[b];
    const std::string last = bin.end - 1 > bin.first ? cat(" to ", format_count(bin.end - 1)) : "";
    auto& row = rows.emplace_back(std::vector<std::string>{format_count(bin.first) + last});
    for (const auto& bins : results.positions) {
      row.push_back(with_error({bins[b].perplexity(), bins[b].error ? std::optional(*bins[b].error * bins[b].perplexity()) : std::nullopt}, 2));
    }
  }
  return rows;
}

Json probe_json(const ProbeResults& results) {
  Json out = results.settings;
  out["models"] = results.models;
  out["probes"] = Json::array();
  for (const auto& c : results.cells) {
    Json cell = {{"task", c.cell.task}, {"length", c.cell.length}, {"pairs", c.pairs}, {"longest", c.tokens}, {"scores", Json::array()}};
    for (size_t m = 0; m < c.scores.size(); ++m) {
      const auto& s = c.scores[m];
      cell["scores"].push_back({{"model", results.models[m]}, {"accuracy", estimate_json(s.accuracy)},
                                {"token_accuracy", estimate_json(s.token_accuracy)}, {"log_likelihood", estimate_json(s.log_likelihood)},
                                {"questions", s.questions}, {"answer_tokens", s.answer_tokens}, {"tokens_read", s.work.rows_read},
                                {"tokens_asked", s.work.rows_asked}});
    }
    out["probes"].push_back(std::move(cell));
  }
  out["windows"] = results.windows;
  out["positions"] = Json::array();
  for (size_t m = 0; m < results.positions.size(); ++m) {
    Json bins = Json::array();
    for (const auto& bin : results.positions[m]) {
      bins.push_back({{"first", bin.first}, {"last", bin.end - 1}, {"scored", bin.scored}, {"perplexity", bin.perplexity()},
                      {"nll", bin.nll}, {"nll_stderr", bin.error ? Json(*bin.error) : Json("N/A")}});
    }
    out["positions"].push_back({{"model", results.models[m]}, {"bins", std::move(bins)}});
  }
  return out;
}

std::string probe_page(const ProbeResults& results) {
  std::string out = "<h1>Recall</h1>\n";
  std::string names;
  for (const auto& model : results.models) names += (names.empty() ? "" : ", ") + model;
  out += cat("<p>", escape(names), "</p>\n<p class=\"quiet\">", escape(settings_line(results.settings)), "</p>\n");
  std::vector<std::string> drawings;
  for (const auto& task : task_names(results)) {
    for (auto& drawing : task_drawings(results, task)) drawings.push_back(std::move(drawing));
  }
  out += section("Does it recall what it has read?", "Share of answers that greedy decoding writes exactly. Lines at a point: one standard error.",
                 charts(drawings));
  if (!results.positions.empty()) {
    out += section("What does a longer past bring?",
                   cat("Perplexity of the tokens that have so many before them, on the same ", results.windows, " windows of text."),
                   charts({position_drawing(results)}) + html_table(position_table(results)));
  }
  if (!results.cells.empty()) {
    out += section("Accuracy", "", html_table(probe_table(results)));
    out += section("Log-likelihood of the answer, per token", "Also where no answer is right: 0 is certain.", html_table(probe_likelihood_table(results)));
  }
  return page("Recall", out);
}

}  // namespace retort::cli
