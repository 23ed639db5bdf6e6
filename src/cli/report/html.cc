#include "cli/report/html.h"

#include <algorithm>

#include "base/format.h"
#include "cli/report/charts.h"

namespace retort::cli {
namespace {

constexpr const char* kStyle = R"(
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;line-height:1.25;margin:0 0 4px}h2{font-size:17px;margin:36px 0 10px}h3{font-size:14px;margin:18px 0 6px}
p{margin:6px 0;max-width:72ch}.quiet{color:var(--muted)}
.scroll{overflow-x:auto;margin:8px -20px;padding:0 20px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 14px 6px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
th{color:var(--muted);font-weight:500;vertical-align:bottom}th:first-child,td:first-child{text-align:left;font-weight:600}
td.words,th.words{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:22px}
.plot{display:block;width:100%;height:auto}
.sample{border-left:3px solid var(--grid);padding:2px 0 2px 14px;margin:8px 0 16px;white-space:pre-wrap;overflow-wrap:anywhere;max-width:80ch}
pre{overflow-x:auto;font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;background:color-mix(in srgb,var(--grid) 45%,transparent);padding:12px 14px;border-radius:6px}
code{font:0.92em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
details{margin:10px 0}summary{cursor:pointer}
)";

std::string fixed(const std::optional<double>& value, int digits) { return value ? format_fixed(*value, digits) : "-"; }

std::string html_table(const Cells& rows) {
  if (rows.empty()) return "";
  std::string out = "<div class=\"scroll\"><table>\n";
  const auto is_words = [&](size_t column) {
    return std::any_of(rows.begin() + 1, rows.end(), [&](const auto& row) {
      return column < row.size() && !row[column].empty() && row[column] != "-" && (row[column][0] < '0' || row[column][0] > '9');
    });
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    const char* cell = r == 0 ? "th" : "td";
    out += "<tr>";
    for (size_t c = 0; c < rows[r].size(); ++c) {
      out += cat("<", cell, is_words(c) ? " class=\"words\">" : ">", escape(rows[r][c]), "</", cell, ">");
    }
    out += "</tr>\n";
  }
  return out + "</table></div>\n";
}

std::string charts(const std::vector<std::string>& drawings) {
  std::string out;
  for (const auto& drawing : drawings) {
    if (!drawing.empty()) out += "<div>" + drawing + "</div>\n";
  }
  return out.empty() ? "" : "<div class=\"charts\">\n" + out + "</div>\n";
}

std::string section(const std::string& title, const std::string& note, const std::string& body) {
  if (body.empty()) return "";
  return cat("<h2>", escape(title), "</h2>\n", note.empty() ? "" : cat("<p class=\"quiet\">", escape(note), "</p>\n"), body);
}

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
  std::string out = cat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
                        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>", escape(run.folder),
                        " · retort</title>\n<style>", plot_style(), kStyle, "</style></head>\n<body><main>\n");
  out += cat("<h1>", escape(run.teacher.name), run.students.empty() ? "" : ", distilled", "</h1>\n");
  out += cat("<p class=\"quiet\">run <code>", escape(run.folder), "</code>", run.finished ? "" : " · not finished yet", "</p>\n");
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
  out += section("Training", "", charts(draw_all(loss_charts(run))));
  out += section("What they write", run.prompt.empty() ? "" : "Prompt: " + run.prompt, samples(run));
  std::string layouts;
  for (const auto& s : run.students) {
    if (!s.mixers.empty()) layouts += cat("<p>", escape(s.name), ": <code>", escape(s.mixers), "</code></p>\n");
  }
  out += section("Layers", "One letter a layer: * attention, w window, + several mixers in one layer, otherwise the mixer's initial.", layouts);
  out += section("Recipe and provenance", "", json_block("recipe, as resolved", run.recipe) + json_block("provenance", run.provenance) +
                 json_block("machine", run.machine));
  return out + "</main></body></html>\n";
}

}  // namespace retort::cli
