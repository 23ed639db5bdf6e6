#include <algorithm>

#include "base/error.h"
#include "base/format.h"
#include "cli/report/plot_parts.h"

namespace retort::cli {

using namespace plot;

namespace {

std::string bar(double x, double width, const Axis& y, double value, double error, int hue, bool pale, const std::string& hint) {
  const double top = std::clamp(y.place(value), y.to, y.from);
  return cat("<rect x=\"", number(x), "\" y=\"", number(top), "\" width=\"", number(width), "\" height=\"", number(std::max(0.0, y.from - top)),
             "\" rx=\"2\" fill=\"", colour(hue), "\"", pale ? " opacity=\"0.35\"" : "", "><title>", escape(hint), "</title></rect>\n",
             whisker(x + width / 2, y, value, error, "var(--ink)"),
             text_at(x + width / 2, std::min(top, error > 0 ? y.place(value + error) : top) - 4, "middle", "v", format_significant(value, 3)));
}

// At most two lines of at most `letters` letters each.
std::string bar_label(double x, double y, const std::string& label, size_t letters) {
  size_t cut = label.size();
  if (label.size() > letters) {
    cut = label.rfind(' ', letters);
    if (cut == std::string::npos || cut == 0) cut = letters;
  }
  auto second = cut < label.size() ? label.substr(label[cut] == ' ' ? cut + 1 : cut) : "";
  if (second.size() > letters + 2) second = second.substr(0, letters) + "…";
  return text_at(x, y, "middle", "s", label.substr(0, cut)) + (second.empty() ? "" : text_at(x, y + 13, "middle", "s", second));
}

}  // namespace

std::string draw(const BarPlot& plot, Size size) {
  double most = plot.line.value_or(0);
  for (const auto& g : plot.groups) most = std::max({most, g.before.value_or(0) + g.before_error, g.after.value_or(0) + g.after_error});
  if (plot.groups.empty() || !(most > 0) || !std::isfinite(most)) return "";
  std::string out = open(size, plot.title);
  std::vector<LegendItem> items;
  if (!plot.before_name.empty()) {
    const bool one = std::all_of(plot.groups.begin(), plot.groups.end(), [&](const auto& g) { return g.colour == plot.groups[0].colour; });
    const std::string stroke = cat("stroke=\"", one ? colour(plot.groups[0].colour) : "var(--muted)", "\" stroke-width=\"9\"");
    items.push_back({plot.before_name, stroke + " opacity=\"0.4\""});
    items.push_back({plot.after_name, stroke});
  }
  if (plot.line) items.push_back({cat(plot.line_name, " ", format_significant(*plot.line, 4)), "stroke=\"var(--c0)\" stroke-width=\"2\" stroke-dasharray=\"5 4\""});
  const int rows = legend(out, items, size);
  Axis y = fit(0, most, false, true);
  y.from = size.height - kBottom, y.to = kTitle + 14 + kLegendRow * rows;
  out += y_grid(y, size, plot.y_label);
  const double room = (size.width - kLeft - kRight) / double(plot.groups.size());
  for (size_t i = 0; i < plot.groups.size(); ++i) {
    const auto& g = plot.groups[i];
    const double middle = kLeft + room * (double(i) + 0.5), width = std::min(38.0, room * 0.36);
    const bool both = g.before && g.after;
    const double first = both ? middle - width - 1 : middle - width / 2;
    if (g.before) out += bar(first, width, y, *g.before, g.before_error, g.colour, true, cat(g.label, ", ", plot.before_name, ": ", format_significant(*g.before, 5)));
    if (g.after) out += bar(both ? middle + 1 : first, width, y, *g.after, g.after_error, g.colour, false, cat(g.label, ": ", format_significant(*g.after, 5)));
    out += bar_label(middle, y.from + 15, g.label, size_t(std::max(4.0, room / kLetter - 1)));
  }
  if (plot.line) {
    const auto at = number(y.place(*plot.line));
    out += cat("<line x1=\"", kLeft, "\" x2=\"", size.width - kRight, "\" y1=\"", at, "\" y2=\"", at,
               "\" stroke=\"var(--c0)\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\"/>\n");
  }
  out += cat("<line x1=\"", kLeft, "\" x2=\"", size.width - kRight, "\" y1=\"", number(y.from), "\" y2=\"", number(y.from), "\" class=\"a\"/>\n");
  return out + "</svg>\n";
}

}  // namespace retort::cli
