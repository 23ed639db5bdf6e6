// Pictures of what a few heads look at: the student's mixing matrix beside the teacher's attention matrix, small enough for a report.
//
// Layer: train, torch-free. Pure functions and values; matrix_pictures.h makes them of models.
//
// RUN/matrices.json:
//   {"tokens": 256, "size": 64, "heads": [{"layer", "head", "mixer", "window", "distance", "teacher": {"largest", "cells"}, "student": {...}}]}
//
// A cell covers tokens / size queries and as many keys: the weight that its queries give to its keys, the mean over queries (of attention, the
// cells of a row then sum to 1). `cells` has those on and below the diagonal, row by row, two hex digits each: 128 is 0, and 128 ± n is
// ±(n / 127)² times `largest`, the largest absolute value. A mixer without a matrix per head has `absent`, which says why, in their place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/config.h"

namespace retort::train {

constexpr int kMatrixTokens = 256;     // at most, of the text that matrices are made for
constexpr int kMatrixSize = 64;        // at most, cells across a picture

struct MatrixPicture {
  int size = 0;                        // cells across
  std::vector<double> cells;           // [size, size]
};

struct HeadMatrices {
  int layer = 0, head = 0;             // query head
  std::string mixer;
  int window = 0;                      // the exact window that the mixer is joined with
  double distance = 0;                 // |M - A| / |A|, Frobenius norms of the whole matrices
  MatrixPicture teacher, student;
  std::string absent;
};

// Which heads of a plan are looked at: at most two of each of at most four layers, spread over those that have something beside attention.
struct HeadChoice {
  int layer = 0, part = 0, head = 0;   // of the part's query heads
};
std::vector<HeadChoice> choose_heads(const ModelConfig& student);

// Of a matrix [T, T], rows `stride` numbers apart.
MatrixPicture picture(const float* matrix, int64_t tokens, int64_t stride);

nlohmann::ordered_json matrices_json(const std::vector<HeadMatrices>& heads, int tokens);

}  // namespace retort::train
