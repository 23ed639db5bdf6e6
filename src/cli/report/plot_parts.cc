#include "cli/report/plot_parts.h"

#include <algorithm>

#include "base/error.h"
#include "base/format.h"

namespace retort::cli {
namespace plot {

std::string number(double value) { return format_significant(value, 6); }

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

int legend(std::string& out, const std::vector<LegendItem>& items, Size size) {
  double x = kLeft, y = kTitle + 12;
  int rows = items.empty() ? 0 : 1;
  const size_t most = size_t((size.width - kLeft - 26) / kLetter);
  for (const auto& item : items) {
    const std::string name = item.name.size() > most ? item.name.substr(0, most - 1) + "…" : item.name;
    const double width = 26 + kLetter * double(std::min(item.name.size(), most)) + 10;
    if (x > kLeft && x + width > size.width) {
      x = kLeft;
      y += kLegendRow;
      ++rows;
    }
    out += cat("<line x1=\"", number(x), "\" x2=\"", number(x + 18), "\" y1=\"", number(y - 4), "\" y2=\"", number(y - 4), "\" ", item.css, "/>\n");
    out += text_at(x + 23, y, "start", "s", name);
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

std::string whisker(double x, const Axis& y, double value, double error, const std::string& stroke) {
  if (!(error > 0) || !std::isfinite(error) || !drawable(value + error, y.logarithmic)) return "";
  const double low = std::clamp(drawable(value - error, y.logarithmic) ? y.place(value - error) : y.from, y.to, y.from);
  const double high = std::clamp(y.place(value + error), y.to, y.from);
  return cat("<line x1=\"", number(x), "\" x2=\"", number(x), "\" y1=\"", number(low), "\" y2=\"", number(high), "\" stroke=\"", stroke,
             "\" stroke-width=\"1.2\" opacity=\"0.7\"/>\n");
}

}  // namespace plot

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

std::string plot_style() {
  constexpr const char* kLight =
      "--paper:#ffffff;--ink:#1b1f24;--muted:#5d6673;--grid:#e6e9ee;--axis:#9aa3af;"
      "--c0:#1b1f24;--c1:#1668c7;--c2:#c2410c;--c3:#7fb2ea;--c4:#e8a27c;--c5:#0f7b5f;--c6:#8b3fb3;";
  constexpr const char* kDark =
      "--paper:#14171c;--ink:#e8ebf0;--muted:#a1abb8;--grid:#272d36;--axis:#5d6673;"
      "--c0:#e8ebf0;--c1:#5aa2f5;--c2:#ff8a4c;--c3:#2f5f94;--c4:#94512f;--c5:#3cc79e;--c6:#c98bea;";
  return cat(":root{color-scheme:light dark;", kLight, "}\n@media (prefers-color-scheme:dark){:root{", kDark, "}.plot image{filter:brightness(1.6)}}\n",
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
