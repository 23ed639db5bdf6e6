#include "train/head_matrices.h"

#include <algorithm>
#include <cmath>

#include "mixers/attention.h"

namespace retort::train {
namespace {

constexpr int kLayers = 4, kHeadsOfLayer = 2;

// At most `most` of [0, count), from the first to the last.
std::vector<int> spread(int count, int most) {
  std::vector<int> out;
  const int n = std::min(count, most);
  for (int i = 0; i < n; ++i) out.push_back(n == 1 ? 0 : int(int64_t(i) * (count - 1) / (n - 1)));
  return out;
}

nlohmann::ordered_json picture_json(const MatrixPicture& picture) {
  constexpr const char* kDigits = "0123456789abcdef";
  double largest = 0;
  for (double cell : picture.cells) largest = std::max(largest, std::isfinite(cell) ? std::fabs(cell) : 0);
  std::string text;
  for (int i = 0; i < picture.size; ++i) {
    for (int j = 0; j <= i; ++j) {
      const double cell = picture.cells[size_t(i) * size_t(picture.size) + size_t(j)];
      const double share = largest > 0 && std::isfinite(cell) ? std::sqrt(std::fabs(cell) / largest) : 0;
      const int byte = 128 + int(std::lround(std::copysign(127 * share, cell)));
      text += {kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return {{"largest", largest}, {"cells", text}};
}

}  // namespace

std::vector<HeadChoice> choose_heads(const ModelConfig& student) {
  std::vector<std::vector<HeadChoice>> layers;
  for (int l = 0; l < student.layers; ++l) {
    std::vector<HeadChoice> own;
    const auto& parts = student.plan[size_t(l)].parts;
    for (size_t p = 0; p < parts.size(); ++p) {
      if (parts[p].mixer == Attention::kName) continue;
      for (int h = 0; h < int(parts[p].kv_heads.size()) * student.group(); ++h) own.push_back({l, int(p), h});
    }
    if (!own.empty()) layers.push_back(std::move(own));
  }
  std::vector<HeadChoice> out;
  for (int i : spread(int(layers.size()), kLayers)) {
    for (int h : spread(int(layers[size_t(i)].size()), kHeadsOfLayer)) out.push_back(layers[size_t(i)][size_t(h)]);
  }
  return out;
}

MatrixPicture picture(const float* matrix, int64_t tokens, int64_t stride) {
  const int64_t side = std::max<int64_t>(1, (tokens + kMatrixSize - 1) / kMatrixSize);  // tokens a cell
  MatrixPicture out;
  out.size = int((tokens + side - 1) / side);
  out.cells.resize(size_t(out.size) * size_t(out.size));
  for (int64_t t = 0; t < tokens; ++t) {
    const double rows = double(std::min(side, tokens - t / side * side));
    for (int64_t s = 0; s <= t; ++s) out.cells[size_t(t / side * out.size + s / side)] += double(matrix[t * stride + s]) / rows;
  }
  return out;
}

nlohmann::ordered_json matrices_json(const std::vector<HeadMatrices>& heads, int tokens) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  int size = 0;
  for (const auto& h : heads) {
    nlohmann::ordered_json item = {{"layer", h.layer}, {"head", h.head}, {"mixer", h.mixer}, {"window", h.window}};
    if (!h.absent.empty()) {
      item["absent"] = h.absent;
    } else {
      size = h.teacher.size;
      item["distance"] = h.distance;
      item["teacher"] = picture_json(h.teacher);
      item["student"] = picture_json(h.student);
    }
    list.push_back(std::move(item));
  }
  return {{"tokens", tokens}, {"size", size}, {"heads", std::move(list)}};
}

}  // namespace retort::train
