#include "quantise/level_search.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "quantise/products.h"

namespace retort {
namespace {

constexpr int64_t kSearchColumns = 128;  // whose changes reach the others in one product
constexpr int kRounds = 4;               // of levels and grid, for 32 columns at a time; most end earlier

float to_f16(float x) { return f16_to_float(float_to_f16(x)); }

// 32 columns of a row. Their part of the row's error is e H e + 2 c e, where c is the pull of all other columns.
struct Piece {
  const float* h;  // [32, 32], rows `stride` apart
  int64_t stride;
  const float* w;
  BlockGrid grid;
  int levels[kGridBlock];
  float e[kGridBlock], c[kGridBlock];
  float pull[kGridBlock];  // e H + c

  void multiply(const float* x, float* out) const {
    std::fill_n(out, kGridBlock, 0.0f);
    for (int i = 0; i < kGridBlock; ++i) {
      const float* row = h + i * stride;
      for (int j = 0; j < kGridBlock; ++j) out[j] += x[i] * row[j];
    }
  }

  double error() const {
    double sum = 0;
    for (int i = 0; i < kGridBlock; ++i) sum += double(e[i]) * (double(pull[i]) + double(c[i]));
    return sum;
  }

  // Every level to where the error is least with the others held.
  void move_levels() {
    for (int i = 0; i < kGridBlock; ++i) {
      const float* row = h + i * stride;
      const int level = grid.level(grid.value(levels[i]) + pull[i] / row[i]);
      if (level == levels[i]) continue;
      const float now = w[i] - grid.value(level), change = now - e[i];
      levels[i] = level;
      e[i] = now;
      for (int j = 0; j < kGridBlock; ++j) pull[j] += change * row[j];
    }
  }

  // Step and offset to the least squares for these levels.
  void refit() {
    float l[kGridBlock], one[kGridBlock], hl[kGridBlock], h1[kGridBlock];
    for (int i = 0; i < kGridBlock; ++i) l[i] = float(levels[i]), one[i] = 1;
    multiply(l, hl);
    multiply(one, h1);
    double ll = 0, l1 = 0, oo = 0, lw = 0, ow = 0;
    for (int i = 0; i < kGridBlock; ++i) {
      ll += double(l[i]) * double(hl[i]), l1 += double(hl[i]), oo += double(h1[i]);
      lw += double(hl[i]) * double(w[i]) + double(l[i]) * double(c[i]), ow += double(h1[i]) * double(w[i]) + double(c[i]);
    }
    if (grid.least == 0) {
      const double determinant = ll * oo - l1 * l1;
      if (!(determinant > 1e-9 * ll * oo)) return;
      grid.step = to_f16(float((lw * oo - ow * l1) / determinant));
      grid.offset = to_f16(float((ow - double(grid.step) * l1) / oo));  // for the step as f16 has it
    } else {
      if (!(ll > 0)) return;
      grid.step = to_f16(float(lw / ll));
    }
    for (int i = 0; i < kGridBlock; ++i) e[i] = w[i] - grid.value(levels[i]);
    multiply(e, pull);
    for (int i = 0; i < kGridBlock; ++i) pull[i] += c[i];
  }
};

// Levels for the grid and a grid for the levels, in turn. `piece` comes without c; false: it is as it was.
bool improved(Piece& piece) {
  piece.multiply(piece.e, piece.c);
  for (int i = 0; i < kGridBlock; ++i) piece.c[i] = piece.pull[i] - piece.c[i];
  const double before = piece.error();
  double least = before;
  Piece best = piece;
  const auto better = [&] {
    const double error = piece.error();
    if (!(error < least)) return false;
    least = error, best = piece;
    return true;
  };
  for (int round = 0; round < kRounds; ++round) {
    piece.move_levels();
    piece.move_levels();
    better();
    piece.refit();
    if (!better()) break;
  }
  if (!(least < before)) return false;
  piece = best;
  return true;
}

}  // namespace

LevelSearch::LevelSearch(const FeedbackFactor::Block& block, const float* w, RoundedRows& rounded, ThreadPool& pool)
    : h_(block.damped), first_(block.first), n_(block.count), w_(w), rounded_(rounded), pool_(pool), error_(size_t(rounded.rows * n_)),
      pull_(size_t(rounded.rows * n_)) {
  pool_.parallel_for(rounded_.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < n_; ++i) error_[size_t(r * n_ + i)] = w_[r * rounded_.columns + first_ + i] - rounded_.value(r, first_ + i);
    }
  });
  add_product({error_.data(), rounded_.rows, n_, n_}, {h_.data(), n_, n_, n_}, pull_.data(), n_, pool_);
}

double LevelSearch::error() const {
  double sum = 0;
  for (size_t i = 0; i < error_.size(); ++i) sum += double(error_[i]) * double(pull_[i]);
  return sum;
}

// Columns [at, at + count) of a row, and their pull on each other.
void LevelSearch::improve(int64_t row, int64_t at, int64_t count, float* changes) {
  float* error = error_.data() + row * n_ + at;
  float* pull = pull_.data() + row * n_ + at;
  for (int64_t b = 0; b < count; b += kGridBlock) {
    const int64_t column = first_ + at + b;
    Piece piece{h_.data() + (at + b) * n_ + at + b, n_, w_ + row * rounded_.columns + column, rounded_.grid(row, column), {}, {}, {}, {}};
    int8_t* levels = &rounded_.level(row, column);
    std::copy_n(levels, kGridBlock, piece.levels);
    std::copy_n(error + b, kGridBlock, piece.e);
    std::copy_n(pull + b, kGridBlock, piece.pull);
    if (!improved(piece)) continue;
    rounded_.grid(row, column) = piece.grid;
    for (int i = 0; i < kGridBlock; ++i) {
      const float change = piece.e[i] - error[b + i];
      changes[b + i] = change;
      error[b + i] = piece.e[i];
      levels[i] = int8_t(piece.levels[i]);
      const float* h = h_.data() + (at + b + i) * n_ + at;
      for (int64_t j = 0; j < count; ++j) pull[j] += change * h[j];
    }
  }
}

// The changes of columns [at, at + count) into the pull on columns [from, to).
void LevelSearch::spread(int64_t at, int64_t count, int64_t from, int64_t to) {
  add_product({changes_.data(), rounded_.rows, count, count}, {h_.data() + from * n_ + at, to - from, count, n_}, pull_.data() + from, n_, pool_);
}

void LevelSearch::sweep() {
  for (int64_t at = 0; at < n_; at += kSearchColumns) {
    const int64_t count = std::min(kSearchColumns, n_ - at);
    changes_.assign(size_t(rounded_.rows * count), 0);
    pool_.parallel_for(rounded_.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) improve(r, at, count, changes_.data() + r * count);
    });
    spread(at, count, 0, at);
    spread(at, count, at + count, n_);
  }
}

}  // namespace retort
