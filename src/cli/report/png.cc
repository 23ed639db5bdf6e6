#include "cli/report/png.h"

#include <zlib.h>

namespace retort::cli {
namespace {

std::string big_endian(uint32_t value) { return {char(value >> 24), char(value >> 16), char(value >> 8), char(value)}; }

std::string chunk(const std::string& type, const std::string& data) {
  const std::string named = type + data;
  const auto sum = ::crc32(0, reinterpret_cast<const Bytef*>(named.data()), uInt(named.size()));
  return big_endian(uint32_t(data.size())) + named + big_endian(uint32_t(sum));
}

std::string deflated(const std::string& bytes) {
  uLongf size = ::compressBound(uLong(bytes.size()));
  std::string out(size, '\0');
  ::compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()), uLong(bytes.size()), Z_BEST_COMPRESSION);
  out.resize(size);
  return out;
}

}  // namespace

std::string png(int width, int height, const std::vector<uint8_t>& pixels, const std::array<Rgba, 256>& palette) {
  constexpr char kEightBits = 8, kPalette = 3;
  std::string colours, alphas, rows;
  for (const Rgba& c : palette) {
    colours += {char(c.red), char(c.green), char(c.blue)};
    alphas += char(c.alpha);
  }
  for (int y = 0; y < height; ++y) {
    rows += '\0';  // no filter
    rows.append(reinterpret_cast<const char*>(pixels.data()) + size_t(y) * size_t(width), size_t(width));
  }
  const std::string header = big_endian(uint32_t(width)) + big_endian(uint32_t(height)) + std::string{kEightBits, kPalette, 0, 0, 0};
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("PLTE", colours) + chunk("tRNS", alphas) + chunk("IDAT", deflated(rows)) + chunk("IEND", "");
}

std::string png_uri(const std::string& png) {
  constexpr const char* kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out = "data:image/png;base64,";
  for (size_t i = 0; i < png.size(); i += 3) {
    uint32_t three = 0;
    for (size_t k = 0; k < 3; ++k) three = three << 8 | (i + k < png.size() ? uint8_t(png[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k <= png.size() ? kLetters[three >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

}  // namespace retort::cli
