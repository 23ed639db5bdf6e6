// What a few heads look at: RUN/matrices.json, which the trainer writes (format in src/train/head_matrices.h), as pictures.
//
// Layer: cli. Plain values and pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace retort::cli {

struct HeadPicture {
  int layer = 0, head = 0, window = 0;
  std::string mixer;
  std::string absent;                     // why there are no matrices; then nothing follows
  double distance = 0;                    // |M - A| / |A|
  std::vector<double> teacher, student;   // [size, size]
};

struct HeadPictures {
  std::string student;                    // of several in a folder
  int tokens = 0, size = 0;
  std::vector<HeadPicture> heads;
};

// An error names the file and the field.
Result<HeadPictures> read_matrices(const std::string& path);

// Teacher and student side by side, on the teacher's scale.
std::string draw(const HeadPicture& picture, int size, int tokens);

// A section's HTML; of mixers without a matrix a line that says so. Empty when there is nothing to show.
std::string heat_maps(const HeadPictures& pictures);

}  // namespace retort::cli
