// In which order the items of a corpus (passages, pairs) come: within a source by a permutation drawn from the seed, a new one every
// epoch; between sources by their weights.
//
// Layer: train, torch-free. Belongs to one loop.
//
// Without weights all sources are one, so that each has its share by size. With weights the next item is of the source that has the
// fewest tokens for its weight so far, the first of several: at every moment a source lacks at most its share of one item of each other
// source. A source that runs out begins its next epoch, whatever the others do.
#pragma once

#include <cstdint>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace retort::train {

class DrawOrder {
 public:
  // The source of every item; a weight per source, or none at all.
  DrawOrder(const std::vector<int>& sources, const std::vector<double>& weights, uint64_t seed);

  // Index of the next item. There is at least one.
  size_t next();
  // The tokens of the item that next() gave last.
  void count(int64_t tokens);
  // How often the source that was drawn through most often has begun anew.
  int64_t epoch() const;

  // Where it stands; an order of the same items, weights and seed goes on from there.
  nlohmann::json cursor() const;
  Status restore(const nlohmann::json& cursor);

 private:
  struct Source {
    double weight = 1;
    uint64_t salt = 0;
    std::vector<uint32_t> items, order;   // order: of items, this epoch
    int64_t epoch = 0, next = 0, tokens = 0;
  };
  void shuffle(Source& source) const;

  std::vector<Source> sources_;           // those that have items
  uint64_t seed_;
  size_t last_ = 0;
};

}  // namespace retort::train
