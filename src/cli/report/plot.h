// Small charts as SVG: lines (linear or logarithmic axes) and grouped bars. No scripts, no fonts, no outside references;
// colours are CSS variables, so one drawing serves light and dark.
//
// Layer: cli. Values only.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace retort::cli {

// Colour 0 is the teacher's (ink); students take 1, 2, 3, ... in the order of the results.
struct Series {
  std::string name;
  int colour = 0;
  std::vector<std::pair<double, double>> points;
  bool dashed = false;
  bool markers = true;
  std::vector<double> errors;  // of the points, standard errors; empty: none is drawn
};

struct LinePlot {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  bool y_from_zero = false;      // linear y only
  std::optional<double> y_to;    // the axis goes to here at least
  std::vector<Series> series;
};

struct BarGroup {
  std::string label;
  int colour = 0;
  std::optional<double> before, after;  // before is drawn pale
  double before_error = 0, after_error = 0;  // standard errors; 0: none is drawn
};

struct BarPlot {
  std::string title, y_label;
  std::string before_name, after_name;  // legend; empty: one bar a group
  std::optional<double> line;           // a horizontal reference
  std::string line_name;
  std::vector<BarGroup> groups;
};

struct Size {
  int width = 460, height = 300;
};

// An <svg> element. Empty when there is nothing to draw.
std::string draw(const LinePlot& plot, Size size = {});
std::string draw(const BarPlot& plot, Size size = {});

// Several drawings side by side in one file that stands alone (for a README): each gets its own style.
std::string standalone(const std::vector<std::string>& drawings, int columns, Size size = {});

// The CSS variables of the drawings, light and dark.
std::string plot_style();

std::string escape(const std::string& text);  // for HTML and SVG; invalid UTF-8 becomes U+FFFD

// Round values that cover [least, most]: 1-2-5 steps, or powers of ten (with 2 and 5 when the range is short).
std::vector<double> ticks(double least, double most, bool logarithmic);

}  // namespace retort::cli
