#include "cli/report/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/format.h"

namespace retort::cli {
namespace {

constexpr double kLeft = 60, kRight = 14, kTitle = 22, kLegendRow = 16, kBottom = 40, kLetter = 6.1;

std::string number(double value) { return format_significant(value, 6); }

// What stands at a tick: 0.5, 128, 2k, 1.5M.
std::string tick_label(double value) {
  const double size = std::fabs(value);
  const auto trimmed = [](double v) {
    auto text = format_significant(v, 3);
    if (text.find('.') != std::string::npos) text.erase(text.find_last_not_of('0') + 1);
    if (!text.empty() && text.back() == '.') text.pop_back();
    return text;
  };
  if (size >= 1e9) return trimmed(value / 1e9) + "G";
  if (size >= 1e6) return trimmed(value / 1e6) + "M";
  if (size >= 1e4) return trimmed(value / 1e3) + "k";
  return size >= 1000 ? format_count(std::llround(value)) : trimmed(value);
}

struct Axis {
  double least = 0, most = 1;
  bool logarithmic = false;
  double from = 0, to = 1;  // pixels

  double place(double value) const {
    const double a = logarithmic ? std::log(least) : least, b = logarithmic ? std::log(most) : most;
    const double v = logarithmic ? std::log(std::max(value, 1e-300)) : value;
    return from + (to - from) * (b > a ? (v - a) / (b - a) : 0.5);
  }
};

// Room around the values, so that a flat line does not lie on the frame.
Axis fit(double least, double most, bool logarithmic, bool from_zero) {
  Axis axis{least, most, logarithmic};
  if (logarithmic) {
    const double pad = std::max(std::pow(most / least, 0.06), 1.05);
    axis.least /= pad;
    axis.most *= pad;
  } else {
    const double pad = most > least ? 0.06 * (most - least) : std::max(0.1 * std::fabs(most), 1e-9);
    axis.least = from_zero ? 0 : least - pad;
    axis.most = most + pad;
  }
  return axis;
}

std::string text_at(double x, double y, const char* anchor, const std::string& css, const std::string& text) {
  return cat("<text x=\"", number(x), "\" y=\"", number(y), "\" text-anchor=\"", anchor, "\" class=\"", css, "\">", escape(text), "</text>\n");
}

std::string colour(int index) { return cat("var(--c", index < 1 ? 0 : (index - 1) % 6 + 1, ")"); }

struct LegendItem {
  std::string name, css;  // css: attributes of the swatch line
};

// Wraps legend entries; returns how many rows they took.
int legend(std::string& out, const std::vector<LegendItem>& items, Size size) {
  double x = kLeft, y = kTitle + 12;
  int rows = items.empty() ? 0 : 1;
  for (const auto& item : items) {
    const double width = 26 + kLetter * double(item.name.size()) + 10;
    if (x > kLeft && x + width > size.width) {
      x = kLeft;
      y += kLegendRow;
      ++rows;
    }
    out += cat("<line x1=\"", number(x), "\" x2=\"", number(x + 18), "\" y1=\"", number(y - 4), "\" y2=\"", number(y - 4), "\" ", item.css, "/>\n");
    out += text_at(x + 23, y, "start", "s", item.name);
    x += width;
  }
  return rows;
}

std::string open(Size size, const std::string& title) {
  return cat("<svg class=\"plot\" viewBox=\"0 0 ", size.width, " ", size.height, "\" role=\"img\" aria-label=\"", escape(title),
             "\" xmlns=\"http://www.w3.org/2000/svg\">\n", text_at(4, 14, "start", "t", title));
}

std::string y_grid(const Axis& y, Size size, const std::string& label) {
  std::string out;
  for (double value : ticks(y.least, y.most, y.logarithmic)) {
    const auto at = number(y.place(value));
    out += cat("<line x1=\"", kLeft, "\" x2=\"", size.width - kRight, "\" y1=\"", at, "\" y2=\"", at, "\" class=\"g\"/>\n");
    out += text_at(kLeft - 6, y.place(value) + 4, "end", "s", tick_label(value));
  }
  const double middle = (y.from + y.to) / 2;
  out += cat("<text x=\"12\" y=\"", number(middle), "\" text-anchor=\"middle\" transform=\"rotate(-90 12 ", number(middle), ")\" class=\"s\">",
             escape(label), "</text>\n");
  return out;
}

bool drawable(double value, bool logarithmic) { return std::isfinite(value) && (!logarithmic || value > 0); }

std::string curve(const Series& s, const Axis& x, const Axis& y, const LinePlot& plot) {
  std::string path, dots;
  for (const auto& [px, py] : s.points) {
    if (!drawable(px, plot.log_x) || !drawable(py, plot.log_y)) continue;
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

std::string bar(double x, double width, const Axis& y, double value, int hue, bool pale, const std::string& hint) {
  const double top = std::clamp(y.place(value), y.to, y.from);
  return cat("<rect x=\"", number(x), "\" y=\"", number(top), "\" width=\"", number(width), "\" height=\"", number(std::max(0.0, y.from - top)),
             "\" rx=\"2\" fill=\"", colour(hue), "\"", pale ? " opacity=\"0.35\"" : "", "><title>", escape(hint), "</title></rect>\n",
             text_at(x + width / 2, top - 4, "middle", "v", format_significant(value, 3)));
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

std::vector<double> ticks(double least, double most, bool logarithmic) {
  std::vector<double> out;
  if (!(most > least) || !std::isfinite(least) || !std::isfinite(most)) return out;
  if (logarithmic) {
    if (least <= 0) return out;
    const double decades = std::log10(most / least);
    const int stride = decades > 8 ? 2 : 1;
    for (int e = int(std::floor(std::log10(least))); e <= int(std::ceil(std::log10(most))); ++e) {
      if (e % stride) continue;
      for (double m : {1.0, 2.0, 5.0}) {
        if (m > 1 && decades > 2) continue;
        if (const double v = m * std::pow(10.0, e); v >= least * (1 - 1e-9) && v <= most * (1 + 1e-9)) out.push_back(v);
      }
    }
    if (out.size() >= 2) return out;
    out.clear();
  }
  const double rough = (most - least) / 4.5, unit = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * unit;
  for (double m : {5.0, 2.0, 1.0}) {
    if (m * unit >= rough) step = m * unit;
  }
  for (double v = std::ceil(least / step - 1e-9) * step; v <= most + 1e-9 * step && out.size() < 20; v += step) {
    if (!logarithmic || v > 0) out.push_back(std::fabs(v) < 1e-12 * step ? 0 : v);
  }
  return out;
}

std::string draw(const LinePlot& plot, Size size) {
  double least[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  double most[2] = {-least[0], -least[0]};
  std::vector<double> places;
  std::vector<LegendItem> items;
  for (const auto& s : plot.series) {
    bool any = false;
    for (const auto& [px, py] : s.points) {
      if (!drawable(px, plot.log_x) || !drawable(py, plot.log_y)) continue;
      any = true;
      places.push_back(px);
      least[0] = std::min(least[0], px), most[0] = std::max(most[0], px);
      least[1] = std::min(least[1], py), most[1] = std::max(most[1], py);
    }
    if (any) items.push_back({s.name, cat("stroke=\"", colour(s.colour), "\" stroke-width=\"2.5\"", s.dashed ? " stroke-dasharray=\"5 4\"" : "")});
  }
  if (places.empty()) return "";
  std::string out = open(size, plot.title);
  const int rows = legend(out, items.size() > 1 ? items : std::vector<LegendItem>{}, size);
  Axis x = fit(least[0], most[0], plot.log_x, false), y = fit(least[1], most[1], plot.log_y, plot.y_from_zero);
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

std::string draw(const BarPlot& plot, Size size) {
  double most = plot.line.value_or(0);
  for (const auto& g : plot.groups) most = std::max({most, g.before.value_or(0), g.after.value_or(0)});
  if (plot.groups.empty() || !(most > 0) || !std::isfinite(most)) return "";
  std::string out = open(size, plot.title);
  std::vector<LegendItem> items;
  if (!plot.before_name.empty()) {
    items.push_back({plot.before_name, "stroke=\"var(--muted)\" stroke-width=\"9\" opacity=\"0.4\""});
    items.push_back({plot.after_name, "stroke=\"var(--muted)\" stroke-width=\"9\""});
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
    if (g.before) out += bar(first, width, y, *g.before, g.colour, true, cat(g.label, ", ", plot.before_name, ": ", format_significant(*g.before, 5)));
    if (g.after) out += bar(both ? middle + 1 : first, width, y, *g.after, g.colour, false, cat(g.label, ": ", format_significant(*g.after, 5)));
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

std::string plot_style() {
  constexpr const char* kLight =
      "--paper:#ffffff;--ink:#1b1f24;--muted:#5d6673;--grid:#e6e9ee;--axis:#9aa3af;"
      "--c0:#1b1f24;--c1:#1668c7;--c2:#c2410c;--c3:#7fb2ea;--c4:#e8a27c;--c5:#0f7b5f;--c6:#8b3fb3;";
  constexpr const char* kDark =
      "--paper:#14171c;--ink:#e8ebf0;--muted:#a1abb8;--grid:#272d36;--axis:#5d6673;"
      "--c0:#e8ebf0;--c1:#5aa2f5;--c2:#ff8a4c;--c3:#2f5f94;--c4:#94512f;--c5:#3cc79e;--c6:#c98bea;";
  return cat(":root{color-scheme:light dark;", kLight, "}\n@media (prefers-color-scheme:dark){:root{", kDark, "}}\n",
             ".plot text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--muted)}\n"
             ".plot .t{font-size:13px;font-weight:600;fill:var(--ink)}.plot .s{font-size:11px}.plot .v{font-size:10px;fill:var(--ink)}\n"
             ".plot .g{stroke:var(--grid);stroke-width:1}.plot .a{stroke:var(--axis);stroke-width:1}\n");
}

std::string standalone(const std::vector<std::string>& drawings, int columns, Size size) {
  std::vector<std::string> shown;
  for (const auto& d : drawings) {
    if (!d.empty()) shown.push_back(d);
  }
  const int count = int(shown.size()), across = std::max(1, std::min(columns, count)), down = (count + across - 1) / across;
  constexpr int kGap = 16;
  const int width = across * size.width + (across + 1) * kGap, height = down * size.height + (down + 1) * kGap;
  std::string out = cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", width, " ", height, "\" width=\"", width, "\" height=\"",
                        height, "\">\n<style>", plot_style(), "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>\n");
  for (int i = 0; i < count; ++i) {
    const std::string at = cat("<svg x=\"", kGap + (i % across) * (size.width + kGap), "\" y=\"", kGap + (i / across) * (size.height + kGap),
                               "\" width=\"", size.width, "\" height=\"", size.height, "\" ");
    out += at + shown[size_t(i)].substr(5);  // after "<svg "
  }
  return out + "</svg>\n";
}

}  // namespace retort::cli
