#include "cli/report/html.h"

#include <algorithm>

#include "base/format.h"
#include "cli/report/charts.h"
#include "cli/report/page.h"
#include "cli/report/training_charts.h"

namespace retort::cli {
namespace {

std::string fixed(const std::optional<double>& value, int digits) { return value ? format_fixed(*value, digits) : "-"; }

std::string json_block(const std::string& summary, const nlohmann::ordered_json& value) {
  if (value.is_null() || value.empty()) return "";
  const auto text = value.is_string() ? value.get<std::string>()
                                      : value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return cat("<details><summary>", escape(summary), "</summary><pre>", escape(text), "</pre></details>\n");
}

std::string samples(const RunResults& run) {
  std::string out;
  const auto add = [&](const ModelResult& m) {
    if (!m.sample.empty()) out += cat("<h3>", escape(m.name), "</h3>\n<div class=\"sample\">", escape(m.sample), "</div>\n");
  };
  add(run.teacher);
  for (const auto& s : run.students) add(s);
  return out;
}

std::string machine_line(const nlohmann::ordered_json& machine) {
  std::string out;
  if (!machine.is_object()) return "";
  for (const auto& [key, value] : machine.items()) {
    if (value.is_structured() || value.is_null()) continue;
    const auto text = value.is_string() ? value.get<std::string>() : value.dump();
    out += cat(out.empty() ? "" : " · ", key, " ", text);
  }
  return out;
}

}  // namespace

Cells quality_table(const RunResults& run) {
  Cells rows = {{"model", "attention kept", "ppl start", "ppl", "ratio", "recall ppl", "tokens", "time"}};
  const auto add = [&](const ModelResult& m, bool teacher) {
    rows.push_back({m.name, teacher && m.kept.empty() ? "all" : m.kept.empty() ? "-" : m.kept, fixed(m.perplexity_init, 2),
                    fixed(m.perplexity, 2), teacher ? "1.000" : fixed(m.perplexity_ratio, 3), fixed(m.copy_perplexity, 2),
                    m.tokens_trained ? format_count(int64_t(*m.tokens_trained)) : "-", m.seconds ? format_duration(*m.seconds) : "-"});
  };
  if (run.finished) add(run.teacher, true);
  for (const auto& s : run.students) add(s, false);
  return rows;
}

Cells speed_table(const RunResults& run) {
  std::vector<const ModelResult*> models;
  if (run.finished) models.push_back(&run.teacher);
  for (const auto& s : run.students) models.push_back(&s);
  std::vector<double> contexts;
  for (const auto* m : models) {
    for (const auto& p : m->throughput) contexts.push_back(p.context);
  }
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  Cells rows = {{"model"}};
  for (double c : contexts) rows[0].push_back(cat("tok/s @", format_count(int64_t(c))));
  for (double c : contexts) rows[0].push_back(cat("state @", format_count(int64_t(c))));
  for (const auto* m : models) {
    auto& row = rows.emplace_back(std::vector<std::string>{m->name});
    const auto at = [&](double context) -> ContextThroughput {
      for (const auto& p : m->throughput) {
        if (p.context == context) return p;
      }
      return {};
    };
    for (double c : contexts) row.push_back(at(c).tokens_per_second ? format_significant(*at(c).tokens_per_second, 3) : "-");
    for (double c : contexts) row.push_back(at(c).state_bytes ? format_bytes(*at(c).state_bytes) : "-");
  }
  return rows;
}

// Window by window and corpus by corpus: what the charts draw, as numbers.
Cells window_table(const RunResults& run) {
  std::vector<std::pair<std::string, double>> columns;
  const auto note = [&](const ModelResult& m) {
    for (const auto& p : m.perplexities) {
      const std::pair key(p.corpus, p.window);
      if (std::find(columns.begin(), columns.end(), key) == columns.end()) columns.push_back(key);
    }
  };
  note(run.teacher);
  for (const auto& s : run.students) note(s);
  if (columns.empty()) return {};
  Cells rows = {{"perplexity (ratio)"}};
  for (const auto& [corpus, window] : columns) rows[0].push_back(cat(corpus, " @ ", format_count(int64_t(window))));
  const auto add = [&](const ModelResult& m) {
    auto& row = rows.emplace_back(std::vector<std::string>{m.name});
    for (const auto& [corpus, window] : columns) {
      const auto at = std::find_if(m.perplexities.begin(), m.perplexities.end(),
                                   [&, c = corpus, w = window](const auto& p) { return p.corpus == c && p.window == w; });
      if (at == m.perplexities.end()) row.push_back("-");
      else row.push_back(fixed(at->perplexity, 2) + (at->ratio ? " (" + fixed(at->ratio, 3) + ")" : ""));
    }
  };
  add(run.teacher);
  for (const auto& s : run.students) add(s);
  return rows;
}

Cells summary_table(const RunResults& run) {
  Cells rows = quality_table(run);
  const Cells speed = speed_table(run);
  for (size_t r = 0; r < rows.size(); ++r) rows[r].insert(rows[r].end() - 2, speed[r].begin() + 1, speed[r].end());
  return rows;
}

std::string report_html(const RunResults& run) {
  const auto draw_all = [](const auto& plots) {
    std::vector<std::string> out;
    for (const auto& plot : plots) out.push_back(draw(plot));
    return out;
  };
  std::string out;
  out += cat("<h1>", escape(run.teacher.name.empty() ? run.name : run.teacher.name), run.students.empty() ? "" : ", distilled", "</h1>\n");
  out += cat("<p class=\"quiet\">run <code>", escape(run.folder), "</code>", run.trained ? "" : " · not finished yet", "</p>\n");
  if (const auto machine = machine_line(run.machine); !machine.empty()) out += cat("<p class=\"quiet\">", escape(machine), "</p>\n");
  if (run.finished) {
    out += section("Results", "ppl: perplexity on held-out text, before and after training. recall ppl: perplexity of the second copy of a passage "
                   "that the context has seen once (1 is perfect recall).", html_table(quality_table(run)));
  }
  out += section("Quality", "", charts({draw(perplexity_chart(run)), draw(recall_chart(run))}));
  out += section("How far back it still works", "Each window starts with an empty state; a memory that silts up shows as a rising line.",
                 charts(draw_all(window_charts(run))) + html_table(window_table(run)));
  out += section("Speed and memory", "One sequence, decoding token by token. State: what the sequence keeps in memory.",
                 charts({draw(throughput_chart(run)), draw(state_chart(run))}) + (run.finished ? html_table(speed_table(run)) : ""));
  out += section("Training", "", training_html(run.stages));
  std::string pictures;
  for (const auto& of_student : run.matrices) pictures += heat_maps(of_student);
  out += section("What heads look at", "The weight that a query (row) gives to a key (column). Every layer is fed with the teacher's own hidden states. Both "
                 "pictures have one scale, the square root of a weight's share in the teacher's largest; orange is below 0. Away: |M - A| / |A|, of the whole "
                 "matrices.", pictures);
  out += section("What they write", run.prompt.empty() ? "" : "Prompt: " + run.prompt, samples(run));
  std::string layouts;
  for (const auto& s : run.students) {
    if (!s.mixers.empty()) layouts += cat("<p>", escape(s.name), ": <code>", escape(s.mixers), "</code></p>\n");
  }
  out += section("Layers", "One letter a layer: * attention, w window, + several mixers in one layer, otherwise a letter of the mixer's name.", layouts);
  out += section("Recipe and provenance", "", json_block("recipe, as resolved", run.recipe) + json_block("provenance", run.provenance) +
                 json_block("machine", run.machine));
  return page(run.folder, out);
}

}  // namespace retort::cli
