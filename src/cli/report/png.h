// A small picture of few colours as PNG (ISO/IEC 15948), in a data URI: what a page shows without a second file.
//
// Layer: cli. Thread-safe: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace retort::cli {

struct Rgba {
  uint8_t red = 0, green = 0, blue = 0, alpha = 0;
};

// `pixels` are row by row, width * height of them.
std::string png(int width, int height, const std::vector<uint8_t>& pixels, const std::array<Rgba, 256>& palette);

// "data:image/png;base64,..."
std::string png_uri(const std::string& png);

}  // namespace retort::cli
