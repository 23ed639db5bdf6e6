#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/format.h"
#include "cli/report/plot_parts.h"

namespace retort::cli {

using namespace plot;

namespace {

std::string curve(const Series& s, const Axis& x, const Axis& y, const LinePlot& plot) {
  std::string path, dots;
  for (size_t i = 0; i < s.points.size(); ++i) {
    const auto& [px, py] = s.points[i];
    if (!drawable(px, plot.log_x) || !drawable(py, plot.log_y)) continue;
    if (i < s.errors.size()) dots += whisker(x.place(px), y, py, s.errors[i], colour(s.colour));
    const auto at = cat(number(x.place(px)), " ", number(y.place(py)));
    path += cat(path.empty() ? "M" : "L", at);
    if (s.markers) {
      dots += cat("<circle cx=\"", number(x.place(px)), "\" cy=\"", number(y.place(py)), "\" r=\"3.2\" fill=\"", colour(s.colour), "\"><title>",
                  escape(s.name), ": ", tick_label(px), ", ", format_significant(py, 4), "</title></circle>\n");
    }
  }
  return cat("<path d=\"", path, "\" fill=\"none\" stroke=\"", colour(s.colour), "\" stroke-width=\"2\" stroke-linejoin=\"round\"",
             s.dashed ? " stroke-dasharray=\"5 4\"" : "", "/>\n", dots);
}

}  // namespace

std::string draw(const LinePlot& plot, Size size) {
  double least[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  double most[2] = {-least[0], -least[0]};
  std::vector<double> places;
  std::vector<LegendItem> items;
  for (const auto& s : plot.series) {
    bool any = false;
    for (size_t i = 0; i < s.points.size(); ++i) {
      const auto& [px, py] = s.points[i];
      if (!drawable(px, plot.log_x) || !drawable(py, plot.log_y)) continue;
      any = true;
      places.push_back(px);
      const double error = i < s.errors.size() && std::isfinite(s.errors[i]) ? s.errors[i] : 0;
      const double low = drawable(py - error, plot.log_y) ? py - error : py;
      least[0] = std::min(least[0], px), most[0] = std::max(most[0], px);
      least[1] = std::min(least[1], low), most[1] = std::max(most[1], py + error);
    }
    if (any) items.push_back({s.name, cat("stroke=\"", colour(s.colour), "\" stroke-width=\"2.5\"", s.dashed ? " stroke-dasharray=\"5 4\"" : "")});
  }
  if (places.empty()) return "";
  std::string out = open(size, plot.title);
  const int rows = legend(out, items.size() > 1 ? items : std::vector<LegendItem>{}, size);
  Axis x = fit(least[0], most[0], plot.log_x, false), y = fit(least[1], std::max(most[1], plot.y_to.value_or(most[1])), plot.log_y, plot.y_from_zero);
  x.from = kLeft, x.to = size.width - kRight;
  y.from = size.height - kBottom, y.to = kTitle + 6 + kLegendRow * rows;
  out += y_grid(y, size, plot.y_label);
  // Few measured places (contexts, windows) are better ticks than round numbers.
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  double last = -1e9;
  for (double value : places.size() <= 8 && plot.log_x ? places : ticks(x.least, x.most, plot.log_x)) {
    if (x.place(value) - last < 34) continue;
    last = x.place(value);
    out += cat("<line x1=\"", number(last), "\" x2=\"", number(last), "\" y1=\"", number(y.from), "\" y2=\"", number(y.from + 4), "\" class=\"a\"/>\n");
    out += text_at(last, y.from + 16, "middle", "s", tick_label(value));
  }
  out += cat("<line x1=\"", kLeft, "\" x2=\"", size.width - kRight, "\" y1=\"", number(y.from), "\" y2=\"", number(y.from), "\" class=\"a\"/>\n");
  out += text_at((x.from + x.to) / 2, size.height - 6, "middle", "s", plot.x_label);
  for (const auto& s : plot.series) out += curve(s, x, y, plot);
  return out + "</svg>\n";
}

}  // namespace retort::cli
