#include "cli/report/page.h"

#include <algorithm>

#include "base/error.h"
#include "cli/report/plot.h"

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
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:22px}
.wide{grid-column:1/-1;overflow-x:auto}.wide .plot{min-width:640px}.plot{display:block;width:100%;height:auto}
.sample{border-left:3px solid var(--grid);padding:2px 0 2px 14px;margin:8px 0 16px;white-space:pre-wrap;overflow-wrap:anywhere;max-width:80ch}
pre{overflow-x:auto;font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;background:color-mix(in srgb,var(--grid) 45%,transparent);padding:12px 14px;border-radius:6px}
code{font:0.92em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
details{margin:10px 0}summary{cursor:pointer}
)";

constexpr const char* kUsualWidth = "viewBox=\"0 0 460 ";  // of Size; wider drawings have the page's width

}  // namespace

std::string page(const std::string& title, const std::string& body) {
  return cat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
             "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>", escape(title),
             " · retort</title>\n<style>", plot_style(), kStyle, "</style></head>\n<body><main>\n", body, "</main></body></html>\n");
}

std::string html_table(const Cells& rows) {
  if (rows.empty()) return "";
  std::string out = "<div class=\"scroll\"><table>\n";
  const auto is_number = [](const std::string& text) {
    const size_t first = text[0] == '-' && text.size() > 1;
    return text == "-" || (text[first] >= '0' && text[first] <= '9');
  };
  const auto is_words = [&](size_t column) {
    return std::any_of(rows.begin() + 1, rows.end(), [&](const auto& row) { return column < row.size() && !row[column].empty() && !is_number(row[column]); });
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
    const bool wide = drawing.find(kUsualWidth) == std::string::npos;
    if (!drawing.empty()) out += cat(wide ? "<div class=\"wide\">" : "<div>", drawing, "</div>\n");
  }
  return out.empty() ? "" : "<div class=\"charts\">\n" + out + "</div>\n";
}

std::string section(const std::string& title, const std::string& note, const std::string& body) {
  if (body.empty()) return "";
  return cat("<h2>", escape(title), "</h2>\n", note.empty() ? "" : cat("<p class=\"quiet\">", escape(note), "</p>\n"), body);
}

}  // namespace retort::cli
