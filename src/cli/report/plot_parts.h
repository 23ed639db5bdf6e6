// What plots are drawn with: axes, legends, texts. For src/cli/report/plot*.cc and heat_map.cc alone.
//
// Layer: cli. Thread-safe: values and pure functions.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "cli/report/plot.h"

namespace retort::cli::plot {

constexpr double kLeft = 60, kRight = 14, kTitle = 22, kLegendRow = 16, kBottom = 40, kLetter = 6.1;

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
Axis fit(double least, double most, bool logarithmic, bool from_zero);

std::string number(double value);
std::string tick_label(double value);  // what stands at a tick: 0.5, 128, 2k, 1.5M
std::string text_at(double x, double y, const char* anchor, const std::string& css, const std::string& text);
std::string colour(int index);

struct LegendItem {
  std::string name, css;  // css: attributes of the swatch line
};

// Wraps legend entries; returns how many rows they took.
int legend(std::string& out, const std::vector<LegendItem>& items, Size size);

std::string open(Size size, const std::string& title);
std::string y_grid(const Axis& y, Size size, const std::string& label);

inline bool drawable(double value, bool logarithmic) { return std::isfinite(value) && (!logarithmic || value > 0); }
// A thin line from one error below to one above; empty where the axis has no place for it.
std::string whisker(double x, const Axis& y, double value, double error, const std::string& stroke);

}  // namespace retort::cli::plot
