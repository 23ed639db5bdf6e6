#include "cli/report/heat_map.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "base/mapped_file.h"
#include "cli/report/page.h"
#include "cli/report/plot_parts.h"
#include "cli/report/png.h"
#include "io/json_fields.h"

namespace retort::cli {
namespace {

using Json = nlohmann::json;

constexpr int kMostCells = 256;                             // across: no file makes us draw more
constexpr Rgba kPositive{42, 120, 214, 0}, kNegative{217, 96, 26, 0};  // strong enough on white and on black
constexpr Size kFrame{460, 262};
constexpr double kLeftSquare = 26, kRightSquare = 244, kTop = 40, kSide = 200;

// The lower triangle as the file has it; see head_matrices.h.
Result<std::vector<double>> read_cells(const JsonFields& fields, int size) {
  RETORT_TRY(const double largest, fields.number("largest"));
  RETORT_TRY(const std::string text, fields.text("cells"));
  const size_t count = size_t(size) * size_t(size + 1) / 2;
  if (text.size() != 2 * count || text.find_first_not_of("0123456789abcdef") != std::string::npos || !std::isfinite(largest)) {
    return fields.bad(cat("key 'cells' must have ", count, " cells of two hex digits"));
  }
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::vector<double> cells(size_t(size) * size_t(size));
  size_t at = 0;
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j <= i; ++j, at += 2) {
      const double root = (digit(text[at]) * 16 + digit(text[at + 1]) - 128) / 127.0;
      cells[size_t(i) * size_t(size) + size_t(j)] = root * std::fabs(root) * largest;
    }
  }
  return cells;
}

Result<HeadPicture> read_head(const JsonFields& fields, int size) {
  HeadPicture head;
  RETORT_TRY(head.layer, fields.integer("layer"));
  RETORT_TRY(head.head, fields.integer("head"));
  RETORT_TRY(head.window, fields.integer("window"));
  RETORT_TRY(head.mixer, fields.text("mixer"));
  if (fields.has("absent")) {
    RETORT_TRY(head.absent, fields.text("absent"));
    return head;
  }
  RETORT_TRY(head.distance, fields.number("distance"));
  RETORT_TRY(const JsonFields teacher, fields.object("teacher"));
  RETORT_TRY(const JsonFields student, fields.object("student"));
  RETORT_TRY(head.teacher, read_cells(teacher, size));
  RETORT_TRY(head.student, read_cells(student, size));
  return head;
}

// Index 128 is nothing; further away it is the more opaque.
std::array<Rgba, 256> palette() {
  std::array<Rgba, 256> out{};
  for (int i = 0; i < 256; ++i) {
    out[size_t(i)] = i < 128 ? kNegative : kPositive;
    out[size_t(i)].alpha = uint8_t(std::min(255, std::abs(i - 128) * 255 / 127));
  }
  return out;
}

std::string image(const std::vector<double>& cells, int size, double full, double x, const std::string& name) {
  std::vector<uint8_t> pixels(cells.size(), 128);
  for (size_t i = 0; i < cells.size(); ++i) {
    const double share = full > 0 ? std::sqrt(std::min(1.0, std::fabs(cells[i]) / full)) : 0;
    pixels[i] = uint8_t(128 + std::lround(std::copysign(127 * share, cells[i])));
  }
  using plot::number;
  return plot::text_at(x, kTop - 7, "start", "s", name) +
         cat("<rect x=\"", number(x), "\" y=\"", number(kTop), "\" width=\"", number(kSide), "\" height=\"", number(kSide), "\" fill=\"none\" class=\"g\"/>\n") +
         cat("<image x=\"", number(x), "\" y=\"", number(kTop), "\" width=\"", number(kSide), "\" height=\"", number(kSide),
             "\" style=\"image-rendering:pixelated\" href=\"", png_uri(png(size, size, pixels, palette())), "\"/>\n");
}

}  // namespace

Result<HeadPictures> read_matrices(const std::string& path) {
  RETORT_TRY(const auto text, read_text_file(path));
  RETORT_TRY(const Json document, parse_json_object(path, text));
  const JsonFields fields(document, path);
  HeadPictures out;
  RETORT_TRY(out.tokens, fields.integer("tokens"));
  RETORT_TRY(out.size, fields.integer("size"));
  if (out.size < 0 || out.size > kMostCells) return fields.bad(cat("key 'size' must be from 0 to ", kMostCells));
  RETORT_TRY(const Json* heads, fields.array("heads"));
  for (const auto& item : *heads) {
    RETORT_TRY(auto head, read_head(JsonFields(item, cat(path, ": heads[", out.heads.size(), "]")), out.size));
    out.heads.push_back(std::move(head));
  }
  return out;
}

std::string draw(const HeadPicture& picture, int size, int tokens) {
  if (picture.teacher.empty() || picture.student.empty()) return "";
  double full = 0;
  for (double cell : picture.teacher) full = std::max(full, std::fabs(cell));
  std::string out = plot::open(kFrame, cat("Layer ", picture.layer, ", head ", picture.head, ": ", picture.mixer,
                                           picture.window > 0 ? cat(", window ", picture.window) : ""));
  out += image(picture.teacher, size, full, kLeftSquare, "teacher");
  out += image(picture.student, size, full, kRightSquare, cat("student, ", format_significant(picture.distance, 2), " away"));
  const double middle = kTop + kSide / 2;
  out += cat("<text x=\"14\" y=\"", plot::number(middle), "\" text-anchor=\"middle\" transform=\"rotate(-90 14 ", plot::number(middle),
             ")\" class=\"s\">query</text>\n");
  for (double x : {kLeftSquare, kRightSquare}) out += plot::text_at(x + kSide / 2, kTop + kSide + 15, "middle", "s", cat("key, ", tokens, " tokens"));
  return out + "</svg>\n";
}

std::string heat_maps(const HeadPictures& pictures) {
  std::vector<std::string> drawings, absent;
  for (const auto& head : pictures.heads) {
    if (head.absent.empty()) drawings.push_back(draw(head, pictures.size, pictures.tokens));
    else if (std::find(absent.begin(), absent.end(), head.absent) == absent.end()) absent.push_back(head.absent);
  }
  std::string out = charts(drawings);
  for (const auto& why : absent) out += cat("<p class=\"quiet\">No picture: ", escape(why), ".</p>\n");
  if (!out.empty() && !pictures.student.empty()) out = cat("<h3>", escape(pictures.student), "</h3>\n", out);
  return out;
}

}  // namespace retort::cli
