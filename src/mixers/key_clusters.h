// k-means over a head's keys, as its queries tell them apart: the distance of two keys is how far their scores lie apart on average.
//
// Layer: mixers. Plain functions, single-threaded, deterministic.
#pragma once

#include <vector>

#include "mixers/data_start.h"

namespace retort {

struct KeyClusters {
  std::vector<double> metric;   // [head_dim, head_dim]: (a - b)^T metric (a - b) is the square of the distance
  std::vector<double> centres;  // [count, head_dim]
  double mean_distance = 1;     // mean square of the distance from a key to the nearest centre
};

KeyClusters cluster_keys(const HeadStatistics& head, int count);

}  // namespace retort
