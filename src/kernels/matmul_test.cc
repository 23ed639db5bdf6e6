#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"
#include "kernels/elementwise.h"

namespace retort {
namespace {

struct Case {
  BlockFormat format;
  double weight_tolerance;  // of pack_f32's grid, relative to the largest weight in a group; 0: cannot be packed from floats
};
using enum BlockFormat;
const Case kCases[] = {{kF32, 1e-30}, {kF16, 0x1p-11}, {kBF16, 0x1p-8}, {kQ8_0, 0.5 / 127 * 1.01}, {kQ4_0, 0.126},
                       {kQ4_1, 2.0 / 15 / 2 * 1.05}, {kQ5_0, 0}, {kQ5_1, 0}, {kQ4_K, 0}, {kQ5_K, 0}, {kQ6_K, 0}};

std::vector<float> random_floats(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

// Random bytes, with the f16 scales made finite and small.
std::vector<std::byte> random_blocks(BlockFormat format, int64_t rows, int64_t columns, unsigned seed) {
  const BlockSize size = block_size(format);
  std::mt19937 rng(seed);
  std::vector<std::byte> bytes(size_t(rows * columns / size.elements * size.bytes));
  for (auto& b : bytes) b = std::byte(rng());
  if (size.elements == 1) {
    const auto values = random_floats(size_t(rows * columns), seed);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t h = format == kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
      if (format == kF32) std::memcpy(&bytes[4 * i], &values[i], 4);
      else std::memcpy(&bytes[2 * i], &h, 2);
    }
    return bytes;
  }
  const auto put = [&](std::byte* p) {
    const uint16_t h = float_to_f16((float(rng() % 1000) - 500) * 1e-3f);
    std::memcpy(p, &h, 2);
  };
  const bool has_min = format == kQ4_1 || format == kQ5_1 || format == kQ4_K || format == kQ5_K;
  for (size_t i = 0; i < bytes.size(); i += size_t(size.bytes)) {
    put(&bytes[i + (format == kQ6_K ? 208 : 0)]);
    if (has_min) put(&bytes[i + 2]);
  }
  return bytes;
}

// What Activations does, in plain loops.
std::vector<double> rounded_inputs(const float* x, int64_t columns) {
  std::vector<double> out(static_cast<size_t>(columns), 0.0);
  for (int64_t g = 0; g < columns; g += 32) {
    const int64_t n = std::min<int64_t>(32, columns - g);
    float most = 0;
    for (int64_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[g + i]));
    const float inverse = most > 0 ? 127.0f / most : 0;
    for (int64_t i = 0; i < n; ++i) out[g + i] = std::nearbyint(x[g + i] * inverse) * double(most / 127.0f);
  }
  return out;
}


std::vector<float> multiply(const PackedMatrix& w, const std::vector<float>& x, int64_t tokens, Isa isa, ThreadPool& pool,
                            int64_t stride) {
  std::vector<float> y(size_t(tokens * stride), NAN);
  Activations in;
  in.set(x.data(), tokens, w.columns());
  matmul(pool, in, {.w = &w, .y = y.data(), .y_stride = stride}, isa);
  return y;
}

void check_product(const PackedMatrix& w, int64_t tokens, ThreadPool& pool) {
  const int64_t rows = w.rows(), columns = w.columns(), stride = rows + 3;
  const auto x = random_floats(size_t(tokens * columns), 7);
  std::vector<std::vector<double>> weights(static_cast<size_t>(rows));
  std::vector<float> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    w.dequantise_row(r, row.data());
    weights[r].assign(row.begin(), row.end());
  }
  std::vector<float> first;
  for (Isa isa : available_isas()) {
    SCOPED_TRACE(cat(isa_name(isa), " format ", int(w.format()), " ", rows, "x", columns, " tokens ", tokens));
    const auto y = multiply(w, x, tokens, isa, pool, stride);
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<double> in(x.begin() + t * columns, x.begin() + (t + 1) * columns);
      if (w.quantised()) in = rounded_inputs(&x[t * columns], columns);
      for (int64_t r = 0; r < rows; ++r) {
        double want = 0, size = 0;
        for (int64_t k = 0; k < columns; ++k) {
          want += weights[r][k] * in[k];
          size += std::fabs(weights[r][k] * in[k]);
        }
        // Sums in f32: each of the additions rounds a partial sum that |w||x| bounds; minima and offsets cancel against
        // levels of the same size, hence the factor.
        const double tolerance = size * 0x1p-24 * (w.quantised() ? 16.0 + double(columns) / 8 : double(columns)) + 1e-30;
        ASSERT_NEAR(y[t * stride + r], want, tolerance) << "token " << t << " row " << r;
      }
      for (int64_t r = rows; r < stride; ++r) ASSERT_TRUE(std::isnan(y[t * stride + r])) << "wrote beyond its rows";
    }
    if (first.empty()) first = y;
    ASSERT_EQ(std::memcmp(first.data(), y.data(), y.size() * 4), 0) << "not the bits of " << isa_name(Isa::kScalar);
  }
}

TEST(Matmul, EveryBlockFormatAgreesWithDoubles) {
  ThreadPool pool(2);
  for (const Case& c : kCases) {
    const int64_t unit = std::max(32, block_size(c.format).elements);
    for (int64_t rows : {1, 15, 16, 33, 80}) {
      for (int64_t columns : {unit, 3 * unit}) {
        const auto blocks = random_blocks(c.format, rows, columns, unsigned(rows));
        const auto w = PackedMatrix::pack(c.format, rows, columns, blocks.data());
        ASSERT_TRUE(w.ok()) << w.error().message;
        for (int64_t tokens : {1, 2, 3, 5, 33, 112}) check_product(*w, tokens, pool);
      }
    }
  }
}

TEST(Matmul, OddColumnsPackedFromFloats) {
  ThreadPool pool(2);
  for (const Case& c : kCases) {
    if (c.weight_tolerance == 0) continue;
    for (int64_t columns : {1, 7, 31, 33, 100}) {
      const auto values = random_floats(size_t(19 * columns), 3);
      const auto w = PackedMatrix::pack_f32(c.format, 19, columns, values.data());
      ASSERT_TRUE(w.ok()) << w.error().message;
      for (int64_t tokens : {1, 23}) check_product(*w, tokens, pool);
      std::vector<float> row(static_cast<size_t>(columns));
      for (int64_t r = 0; r < 19; ++r) {
        w->dequantise_row(r, row.data());
        for (int64_t k = 0; k < columns; ++k) {
          float most = 0;
          for (int64_t i = k / 32 * 32; i < std::min(columns, k / 32 * 32 + 32); ++i)
            most = std::max(most, std::fabs(values[r * columns + i]));
          ASSERT_NEAR(row[k], values[r * columns + k], c.weight_tolerance * most) << "format " << int(c.format);
        }
      }
    }
  }
}

// The formats' definitions, written as ggml documents them and not as the packer computes them.
TEST(PackedMatrix, RowsHoldExactlyTheFormatsValues) {
  const auto blocks = random_blocks(kQ4_1, 1, 64, 5);
  const auto w = PackedMatrix::pack(kQ4_1, 1, 64, blocks.data());
  std::vector<float> row(64);
  w->dequantise_row(0, row.data());
  for (int i = 0; i < 64; ++i) {
    BlockQ4_1 b;
    std::memcpy(&b, blocks.data() + i / 32 * 20, 20);
    const int byte = b.qs[i % 16], q = i % 32 < 16 ? byte % 16 : byte / 16;
    EXPECT_EQ(row[i], f16_to_float(b.d) * float(q) + f16_to_float(b.m));
  }
  const auto q6 = random_blocks(kQ6_K, 1, 256, 6);
  const auto w6 = PackedMatrix::pack(kQ6_K, 1, 256, q6.data());
  row.resize(256);
  w6->dequantise_row(0, row.data());
  BlockQ6_K b;
  std::memcpy(&b, q6.data(), 210);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(row[i], f16_to_float(b.d) * b.scales[i / 16] * float(((b.ql[i] & 15) | (b.qh[i] & 3) << 4) - 32));
    EXPECT_EQ(row[i + 96], f16_to_float(b.d) * b.scales[6 + i / 16] * float(((b.ql[i + 32] >> 4) | (b.qh[i] >> 6) << 4) - 32));
  }
}

TEST(PackedMatrix, RequantisingADequantisedQ4_1ReproducesIt) {
  std::vector<std::byte> blocks = random_blocks(kQ4_1, 20, 576, 8);
  for (size_t i = 0; i < blocks.size(); i += 20) {
    blocks[i + 1] &= std::byte(0x7f);                        // d > 0, and both ends of the grid used, as a quantiser leaves it
    blocks[i + 4] = std::byte(0xf0);
  }
  const auto w = PackedMatrix::pack(kQ4_1, 20, 576, blocks.data());
  std::vector<float> values(20 * 576), row(576);
  for (int r = 0; r < 20; ++r) w->dequantise_row(r, &values[r * 576]);
  const auto again = PackedMatrix::pack_f32(kQ4_1, 20, 576, values.data());
  for (int r = 0; r < 20; ++r) {
    again->dequantise_row(r, row.data());
    for (int k = 0; k < 576; ++k) {
      // The f32 minimum and step come back to within a rounding, the f16 ones then exactly or to the next f16.
      ASSERT_NEAR(row[k], values[r * 576 + k], std::fabs(values[r * 576 + k]) * 0x1p-10 + 0x1p-12) << r << " " << k;
    }
  }
}

TEST(PackedMatrix, RefusesWhatItCannotHold) {
  EXPECT_FALSE(PackedMatrix::pack(kQ4_1, 2, 33, nullptr).ok());
  EXPECT_FALSE(PackedMatrix::pack(kQ4_K, 2, 128, nullptr).ok());
  EXPECT_FALSE(PackedMatrix::pack(BlockFormat(99), 2, 32, nullptr).ok());
  EXPECT_FALSE(PackedMatrix::pack(kQ4_1, 0, 32, nullptr).ok());
  std::vector<float> v(64, 1.0f);
  v[40] = NAN;
  EXPECT_FALSE(PackedMatrix::pack_f32(kQ8_0, 2, 32, v.data()).ok());
  v[40] = 1e9f;
  EXPECT_FALSE(PackedMatrix::pack_f32(kQ4_1, 2, 32, v.data()).ok());
  EXPECT_FALSE(PackedMatrix::pack_f32(kQ6_K, 2, 32, v.data()).ok());
}

TEST(Matmul, ATokenDoesNotDependOnItsNeighboursOrOnThreads) {
  ThreadPool one(1), three(3);
  const int64_t rows = 100, columns = 160, tokens = 200;
  const auto x = random_floats(size_t(tokens * columns), 9);
  for (BlockFormat format : {kQ4_1, kQ8_0, kBF16, kF32}) {
    const auto values = random_floats(size_t(rows * columns), 10);
    const auto w = PackedMatrix::pack_f32(format, rows, columns, values.data());
    for (bool dot : {false, true}) {
      for (Isa isa : available_isas()) {
        std::vector<float> all(tokens * rows, NAN), single(rows, NAN);
        Activations in;
        in.set(x.data(), tokens, columns);
        matmul(three, in, {.w = &*w, .y = all.data(), .y_stride = rows, .bf16_activations = dot}, isa);
        for (int64_t t : {int64_t(0), int64_t(95), int64_t(96), tokens - 1}) {
          in.set(&x[t * columns], 1, columns);
          matmul(one, in, {.w = &*w, .y = single.data(), .y_stride = rows, .bf16_activations = dot}, isa);
          ASSERT_EQ(std::memcmp(&all[t * rows], single.data(), rows * 4), 0)
              << isa_name(isa) << " format " << int(format) << " token " << t;
        }
      }
    }
  }
}

float bf16(float x) { return bf16_to_float(float_to_bf16(x)); }

// Prompts between other tokens: these keep their bits, and a prompt's are the product of numbers rounded to bf16, or the plain form's
// bits where there is no matrix unit; no token depends on what stands beside it.
void check_prompts(const PackedMatrix& w, ThreadPool& pool) {
  const TokenRange prompts[] = {{3, 36}, {36, 70}, {75, 75 + kMostPromptTokens + 37}};
  const int64_t rows = w.rows(), columns = w.columns(), tokens = prompts[2].end + 1;
  const auto x = random_floats(size_t(tokens * columns), 17);
  std::vector<float> weights(size_t(rows * columns));
  for (int64_t r = 0; r < rows; ++r) w.dequantise_row(r, &weights[r * columns]);
  for (Isa isa : available_isas()) {
    SCOPED_TRACE(cat(isa_name(isa), " format ", int(w.format()), " ", rows, "x", columns));
    const auto plain = multiply(w, x, tokens, isa, pool, rows);
    std::vector<float> y(size_t(tokens * rows), NAN);
    Activations in;
    in.set(x.data(), tokens, columns, columns, prompts);
    matmul(pool, in, {.w = &w, .y = y.data(), .y_stride = rows}, isa);
    const auto same = [&](const float* a, const float* b) { return std::memcmp(a, b, size_t(rows) * 4) == 0; };
    int64_t differ = 0;
    for (int64_t t = 0, next = 0; t < tokens; ++t) {
      if (next < 3 && t == prompts[next].end) ++next;
      const bool prompt = next < 3 && t >= prompts[next].begin;
      if (!prompt) {
        ASSERT_TRUE(same(&y[t * rows], &plain[t * rows])) << "token " << t;
        continue;
      }
      differ += !same(&y[t * rows], &plain[t * rows]);
      for (int64_t r = 0; isa == Isa::kAmx && r < rows; ++r) {
        double want = 0, squares = 0;
        for (int64_t k = 0; k < columns; ++k) {
          const double p = double(bf16(weights[r * columns + k])) * bf16(x[t * columns + k]);
          want += p, squares += p * p;
        }
        // Weights that lie between two bf16s may go to the other one.
        ASSERT_NEAR(y[t * rows + r], want, 0x1p-9 * std::sqrt(squares) + 1e-30) << "token " << t << " row " << r;
      }
    }
    if (isa != Isa::kAmx) ASSERT_EQ(differ, 0);
    else ASSERT_GT(differ, 0) << "the matrix unit was not used";
    // The last prompt by itself.
    std::vector<float> alone(y.size(), NAN);
    const TokenRange all{0, prompts[2].end - prompts[2].begin};
    in.set(&x[prompts[2].begin * columns], all.end, columns, columns, {&all, 1});
    matmul(pool, in, {.w = &w, .y = alone.data(), .y_stride = rows}, isa);
    for (int64_t t = 0; t < all.end; ++t) ASSERT_TRUE(same(&alone[t * rows], &y[(prompts[2].begin + t) * rows])) << "token " << t;
  }
}

TEST(Matmul, PromptsTakeAFormOfTheirOwn) {
  ThreadPool pool(2);
  for (const Case& c : kCases) {
    if (block_size(c.format).elements == 1) continue;
    const int64_t unit = std::max(32, block_size(c.format).elements);
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{15, unit}, {80, 3 * unit}, {33, 1280}}) {
      const auto blocks = random_blocks(c.format, rows, columns, unsigned(rows));
      const auto w = PackedMatrix::pack(c.format, rows, columns, blocks.data());
      ASSERT_TRUE(w.ok()) << w.error().message;
      check_prompts(*w, pool);
    }
  }
  const auto values = random_floats(19 * 100, 3);
  const auto odd = PackedMatrix::pack_f32(kQ4_1, 19, 100, values.data());
  ASSERT_TRUE(odd.ok());
  check_prompts(*odd, pool);
}

TEST(Matmul, Bf16DotProductIsWithinBf16OfTheExactOne) {
  ThreadPool pool(2);
  const int64_t rows = 50, columns = 321, tokens = 9;
  const auto x = random_floats(size_t(tokens * columns), 11), values = random_floats(size_t(rows * columns), 12);
  const auto w = PackedMatrix::pack_f32(kBF16, rows, columns, values.data());
  for (Isa isa : available_isas()) {
    std::vector<float> y(tokens * rows, NAN);
    Activations in;
    in.set(x.data(), tokens, columns);
    matmul(pool, in, {.w = &*w, .y = y.data(), .y_stride = rows, .bf16_activations = true}, isa);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        double want = 0, size = 0;
        for (int64_t k = 0; k < columns; ++k) {
          const double p = double(bf16_to_float(float_to_bf16(values[r * columns + k]))) *
                           bf16_to_float(float_to_bf16(x[t * columns + k]));
          want += p;
          size += std::fabs(p);
        }
        ASSERT_NEAR(y[t * rows + r], want, size * 0x1p-24 * columns) << isa_name(isa);
      }
    }
  }
}

TEST(Matmul, EpiloguesBiasResidualAndGatedPairs) {
  ThreadPool pool(2);
  const int64_t width = 40, columns = 96, tokens = 24;
  const auto x = random_floats(size_t(tokens * columns), 13);
  const auto gate = random_floats(size_t(width * columns), 14), up = random_floats(size_t(width * columns), 15);
  const auto bias = random_floats(size_t(width), 16);
  const auto g = PackedMatrix::pack_f32(kQ8_0, width, columns, gate.data());
  const auto u = PackedMatrix::pack_f32(kQ8_0, width, columns, up.data());
  const auto both = PackedMatrix::pack_f32(kQ8_0, columns, interleave_rows(gate.data(), up.data(), width, columns));
  ASSERT_TRUE(both.ok());
  for (bool prompts : {false, true}) for (Isa isa : available_isas()) {
    std::vector<float> yg(tokens * width, NAN), yu(tokens * width, NAN), pair(tokens * width, NAN), sum(tokens * width, 2.0f);
    Activations in;
    in.set(x.data(), tokens, columns);
    const TokenRange prompt{2, tokens};
    if (prompts) in.set(x.data(), tokens, columns, columns, {&prompt, 1});
    const MatmulJob jobs[] = {
        {.w = &*g, .y = yg.data(), .y_stride = width},
        {.w = &*u, .y = yu.data(), .y_stride = width},
        {.w = &*both, .y = pair.data(), .y_stride = width, .epilogue = Epilogue::kSiluPairs, .outputs = width},
        {.w = &*g, .y = sum.data(), .y_stride = width, .bias = bias.data(), .epilogue = Epilogue::kAdd}};
    matmul(pool, in, jobs, isa);
    std::vector<float> want(tokens * width);
    elementwise(isa).silu_mul(yg.data(), yu.data(), tokens * width, want.data());
    for (int64_t i = 0; i < tokens * width; ++i) {
      EXPECT_EQ(pair[i], want[i]) << isa_name(isa) << " " << i;
      EXPECT_EQ(sum[i], 2.0f + (yg[i] + bias[i % width])) << isa_name(isa) << " " << i;
    }
  }
}

}  // namespace
}  // namespace retort
