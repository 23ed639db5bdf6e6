// Pictures of matrices: the PNG decoded again with zlib alone, and what a wrong file is told.
#include <cmath>
#include <cstdint>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <zlib.h>

#include "cli/report/heat_map.h"
#include "cli/report/png.h"
#include "test_files.h"

namespace retort::cli {
namespace {

uint32_t number_at(const std::string& bytes, size_t at) {
  uint32_t out = 0;
  for (size_t i = 0; i < 4; ++i) out = out << 8 | uint8_t(bytes[at + i]);
  return out;
}

// Chunks by type; every checksum is right.
std::map<std::string, std::string> chunks(const std::string& png) {
  std::map<std::string, std::string> out;
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  for (size_t at = 8; at + 12 <= png.size();) {
    const uint32_t size = number_at(png, at);
    const std::string type = png.substr(at + 4, 4), data = png.substr(at + 8, size);
    const std::string named = type + data;
    EXPECT_EQ(number_at(png, at + 8 + size), crc32(0, reinterpret_cast<const Bytef*>(named.data()), uInt(named.size()))) << type;
    out[type] = data;
    at += 12 + size;
  }
  return out;
}

std::string decode_base64(const std::string& text) {
  const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    if (c == '=') break;
    bits = bits << 6 | uint32_t(letters.find(c));
    if ((count += 6) >= 8) out += char(bits >> (count -= 8) & 255);
  }
  return out;
}

std::array<Rgba, 256> shades() {
  std::array<Rgba, 256> out{};
  for (int i = 0; i < 256; ++i) out[size_t(i)] = {uint8_t(i), uint8_t(255 - i), 7, uint8_t(i / 2)};
  return out;
}

nlohmann::json one_head() {
  // 2 x 2: 0.25 of 1 (root 0.5: 64 of 127), then -1 and 0.
  return {{"tokens", 2}, {"size", 2},
          {"heads", {{{"layer", 3}, {"head", 1}, {"mixer", "gla"}, {"window", 0}, {"distance", 0.5}, {"teacher", {{"largest", 1.0}, {"cells", "ff80ff"}}},
                      {"student", {{"largest", 2.0}, {"cells", "c00180"}}}}}}};
}

}  // namespace

TEST(Png, DecodesToItsPixels) {
  std::vector<uint8_t> pixels;
  for (int i = 0; i < 5 * 3; ++i) pixels.push_back(uint8_t(i * 17));
  const auto parts = chunks(png(5, 3, pixels, shades()));
  ASSERT_TRUE(parts.count("IHDR") && parts.count("PLTE") && parts.count("tRNS") && parts.count("IDAT") && parts.count("IEND"));
  EXPECT_EQ(number_at(parts.at("IHDR"), 0), 5u);
  EXPECT_EQ(number_at(parts.at("IHDR"), 4), 3u);
  EXPECT_EQ(parts.at("PLTE").substr(3 * 200, 3), std::string({char(200), char(55), char(7)}));
  EXPECT_EQ(uint8_t(parts.at("tRNS")[200]), 100);
  std::string rows(3 * 6, '?');
  uLongf size = rows.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(rows.data()), &size, reinterpret_cast<const Bytef*>(parts.at("IDAT").data()), parts.at("IDAT").size()), Z_OK);
  ASSERT_EQ(size, rows.size());
  for (size_t y = 0; y < 3; ++y) {
    EXPECT_EQ(rows[6 * y], '\0') << "no filter";
    for (size_t x = 0; x < 5; ++x) EXPECT_EQ(uint8_t(rows[6 * y + 1 + x]), pixels[5 * y + x]);
  }
}

TEST(Png, UriHasItsBytes) {
  for (size_t size : {0u, 1u, 2u, 3u, 4u, 5u, 60u, 61u}) {
    std::string bytes;
    for (size_t i = 0; i < size; ++i) bytes += char(i * 41 + 200);
    const std::string uri = png_uri(bytes), head = "data:image/png;base64,";
    ASSERT_EQ(uri.substr(0, head.size()), head);
    EXPECT_EQ((uri.size() - head.size()) % 4, 0u);
    EXPECT_EQ(decode_base64(uri.substr(head.size())), bytes) << size;
  }
}

TEST(HeatMap, ReadsWhatTheTrainerWrites) {
  test::TempFolder folder;
  test::write_file(folder / "matrices.json", one_head().dump());
  const auto read = read_matrices(folder / "matrices.json");
  ASSERT_TRUE(read.ok()) << read.error().message;
  ASSERT_EQ(read->heads.size(), 1u);
  const HeadPicture& head = read->heads[0];
  EXPECT_EQ(head.teacher, (std::vector<double>{1, 0, 0, 1}));
  EXPECT_NEAR(head.student[0], 2 * (64 / 127.0) * (64 / 127.0), 1e-12);
  EXPECT_EQ(head.student[1], 0) << "above the diagonal";
  EXPECT_EQ(head.student[2], -2);
  EXPECT_EQ(head.student[3], 0);
  const std::string page = heat_maps(*read);
  EXPECT_NE(page.find("Layer 3, head 1: gla"), std::string::npos);
  size_t images = 0;
  for (size_t at = 0; (at = page.find("href=", at)) != std::string::npos; ++at, ++images) {
    EXPECT_EQ(page.substr(at, 27), "href=\"data:image/png;base64") << "nothing from elsewhere";
  }
  EXPECT_EQ(images, 2u);
}

// The student's picture has the teacher's scale: what is stronger than the teacher's strongest is as strong as that.
TEST(HeatMap, OneScaleForBoth) {
  HeadPicture head{0, 0, 0, "gla", "", 0, {1, 0, 0, 0.25}, {4, 0, -0.25, 0.25}};
  const std::string svg = draw(head, 2, 2);
  const auto pixels = [&](size_t nth) {
    size_t at = 0;
    for (size_t i = 0; i <= nth; ++i) at = svg.find("base64,", at) + 7;
    const auto parts = chunks(decode_base64(svg.substr(at, svg.find('"', at) - at)));
    std::string rows(6, '?');
    uLongf size = rows.size();
    uncompress(reinterpret_cast<Bytef*>(rows.data()), &size, reinterpret_cast<const Bytef*>(parts.at("IDAT").data()), parts.at("IDAT").size());
    return std::vector<int>{uint8_t(rows[1]), uint8_t(rows[2]), uint8_t(rows[4]), uint8_t(rows[5])};
  };
  EXPECT_EQ(pixels(0), (std::vector<int>{255, 128, 128, 128 + 64}));
  EXPECT_EQ(pixels(1), (std::vector<int>{255, 128, 128 - 64, 128 + 64}));
}

TEST(HeatMap, MixersWithoutAMatrixSaySo) {
  HeadPictures pictures{"", 16, 0, {{0, 0, 0, "mamba", "mamba has <no> matrix", 0, {}, {}}, {5, 0, 0, "mamba", "mamba has <no> matrix", 0, {}, {}}}};
  const std::string page = heat_maps(pictures);
  EXPECT_NE(page.find("mamba has &lt;no&gt; matrix"), std::string::npos);
  EXPECT_EQ(page.find("mamba has", page.find("mamba has") + 1), std::string::npos) << "once";
  EXPECT_EQ(heat_maps({}), "");
}

TEST(HeatMap, WrongFilesAreNamed) {
  test::TempFolder folder;
  const auto said = [&](const std::string& text) {
    test::write_file(folder / "m.json", text);
    const auto read = read_matrices(folder / "m.json");
    return read.ok() ? "read" : read.error().message;
  };
  const auto without = [](auto change) {
    auto document = one_head();
    change(document);
    return document.dump();
  };
  EXPECT_NE(said("[]").find("m.json"), std::string::npos);
  EXPECT_NE(said(without([](auto& d) { d["size"] = 100000; })).find("'size' must be"), std::string::npos);
  EXPECT_NE(said(without([](auto& d) { d["heads"][0]["teacher"]["cells"] = "ff80"; })).find("heads[0]"), std::string::npos);
  EXPECT_NE(said(without([](auto& d) { d["heads"][0]["student"]["cells"] = "zz8080"; })).find("hex digits"), std::string::npos);
  EXPECT_NE(said(without([](auto& d) { d["heads"][0]["student"] = 3; })).find("student"), std::string::npos);
  EXPECT_NE(said(without([](auto& d) { d["heads"] = {3}; })).find("heads[0]"), std::string::npos);
}

}  // namespace retort::cli
