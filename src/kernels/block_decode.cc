#include "kernels/block_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"

namespace retort {
namespace {

template <class Block>
Block load(const std::byte* p) {  // rows of blocks need not be aligned
  Block b;
  std::memcpy(&b, p, sizeof b);
  return b;
}

// Six-bit scale and minimum of sub-block j of a Q4_K or Q5_K block.
void k_scale(const uint8_t* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

template <class Block>
void decode_q5(const std::byte* p, int64_t g, LevelRow& out) {
  const Block b = load<Block>(p);
  uint8_t* q = out.levels.data() + 32 * g;
  for (int i = 0; i < 16; ++i) {
    q[i] = b.qs[i] & 15;
    q[i + 16] = b.qs[i] >> 4;
  }
  for (int i = 0; i < 32; ++i) q[i] |= ((b.qh[i / 8] >> (i % 8)) & 1) << 4;
  out.d[g] = f16_to_float(b.d);
  if constexpr (requires { b.m; }) out.m[g] = f16_to_float(b.m);
}

template <class Block>
void decode_k(const std::byte* p, int64_t block, LevelRow& out) {
  const Block b = load<Block>(p);
  const float d = f16_to_float(b.d), dmin = f16_to_float(b.dmin);
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    k_scale(b.scales, j, scale, min);
    out.d[8 * block + j] = d * float(scale);
    out.m[8 * block + j] = -(dmin * float(min));
    uint8_t* q = out.levels.data() + 256 * block + 32 * j;
    for (int i = 0; i < 32; ++i) {
      const uint8_t byte = b.qs[32 * (j / 2) + i];
      q[i] = j % 2 ? byte >> 4 : byte & 15;
      if constexpr (requires { b.qh; }) q[i] |= ((b.qh[i] >> j) & 1) << 4;
    }
  }
}

void decode_q6_k(const std::byte* p, int64_t block, LevelRow& out) {
  const auto b = load<BlockQ6_K>(p);
  const float d = f16_to_float(b.d);
  for (int half = 0; half < 2; ++half) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int i = 0; i < 32; ++i) {
        const uint8_t low = b.ql[64 * half + 32 * (quarter % 2) + i];
        const int high = (b.qh[32 * half + i] >> (2 * quarter)) & 3;
        out.levels[256 * block + 128 * half + 32 * quarter + i] =
            uint8_t((quarter < 2 ? low & 15 : low >> 4) | high << 4);
      }
    }
  }
  for (int j = 0; j < 16; ++j) out.d[16 * block + j] = d * float(b.scales[j]);
}

struct Grid {
  float d, m;  // what the file would hold: rounded to f16
};

Grid fit(BlockFormat format, const float* x, int64_t n) {
  float low = x[0], high = x[0], largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  }
  const auto round = [](float v) { return f16_to_float(float_to_f16(v)); };
  if (format == BlockFormat::kQ4_1) return {round((high - low) / 15), round(low)};
  if (format == BlockFormat::kQ4_0) return {round(largest / -8), 0};
  return {round(std::fabs(largest) / 127), 0};
}

}  // namespace

void decode_blocks(BlockFormat format, const std::byte* blocks, int64_t columns, LevelRow& out) {
  const BlockSize size = block_size(format);
  const int64_t group = format == BlockFormat::kQ6_K ? 16 : 32;
  out.levels.resize(size_t(columns));
  out.d.resize(size_t(columns / group));
  out.m.resize(size_t(columns / group));
  for (int64_t i = 0; i < columns / size.elements; ++i) {
    const std::byte* p = blocks + i * size.bytes;
    switch (format) {
      case BlockFormat::kQ5_0: decode_q5<BlockQ5_0>(p, i, out); break;
      case BlockFormat::kQ5_1: decode_q5<BlockQ5_1>(p, i, out); break;
      case BlockFormat::kQ4_K: decode_k<BlockQ4_K>(p, i, out); break;
      case BlockFormat::kQ5_K: decode_k<BlockQ5_K>(p, i, out); break;
      case BlockFormat::kQ6_K: decode_q6_k(p, i, out); break;
      default: break;
    }
  }
}

bool quantise_floats(BlockFormat format, const float* values, int64_t columns, LevelRow& out) {
  const int64_t groups = (columns + 31) / 32;
  const int offset = format == BlockFormat::kQ4_1 ? 0 : format == BlockFormat::kQ4_0 ? 8 : 128;
  const int most = format == BlockFormat::kQ8_0 ? 255 : 15;
  out.levels.resize(size_t(columns));
  out.d.resize(size_t(groups));
  out.m.resize(size_t(groups));
  for (int64_t g = 0; g < groups; ++g) {
    const float* x = values + 32 * g;
    const int64_t n = std::min<int64_t>(32, columns - 32 * g);
    float check = 0;  // min and max skip NaN; a sum does not
    for (int64_t i = 0; i < n; ++i) check += x[i] * 0.0f;
    const Grid grid = fit(format, x, n);
    if (check != 0 || !std::isfinite(grid.d) || !std::isfinite(grid.m)) return false;
    const float inverse = grid.d != 0 ? 1.0f / grid.d : 0.0f;
    for (int64_t i = 0; i < n; ++i) {
      const float level = grid.d != 0 ? (x[i] - grid.m) * inverse + float(offset) : float(offset);
      out.levels[32 * g + i] = uint8_t(std::lrintf(std::clamp(level, 0.0f, float(most))));
    }
    out.d[g] = grid.d;
    out.m[g] = grid.m;
  }
  return true;
}

}  // namespace retort
