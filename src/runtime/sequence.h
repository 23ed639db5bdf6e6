// The state of one sequence as a value: everything a model remembers of the tokens it has consumed.
//
// Layer: runtime. A Sequence belongs to one thread at a time; StateLayout is immutable and shared.
//
// Fixed-size slots (recurrences, convolutions, windows) lie in one block of fp32 numbers, so cloning is one copy. Only full
// attention grows: its slots are KvCaches. Layout comes from running the mixers' equations on sizes (ProbeOps), in call order.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "mixers/probe_ops.h"
#include "runtime/kv_cache.h"

namespace retort {

class StateLayout {
 public:
  struct Slot {
    StateSlot shape;
    int64_t offset = 0;  // into the fixed block
    int cache = -1;      // index among the growing slots
  };
  StateLayout(const ModelConfig& config, CacheType cache_type);
  // One part alone.
  StateLayout(const std::vector<StateSlot>& part, CacheType cache_type);

  const std::vector<Slot>& slots() const { return slots_; }
  // The first slot of a layer's part; part_forward uses the following ones in order.
  int first_slot(int layer, int part) const { return first_[layer][part]; }
  int64_t fixed_numbers() const { return fixed_numbers_; }
  const std::vector<Slot>& growing() const { return growing_; }
  CacheType cache_type() const { return cache_type_; }

 private:
  void add_part(const std::vector<StateSlot>& slots);

  std::vector<Slot> slots_, growing_;
  std::vector<std::vector<int>> first_;
  int64_t fixed_numbers_ = 0;
  CacheType cache_type_;
};

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<const StateLayout> layout);

  int64_t position() const { return position_; }  // tokens consumed
  const StateLayout& layout() const { return *layout_; }
  int64_t bytes() const;                          // what its state takes now
  // Memory of its own for what it shares with its copies.
  void unshare();
  // Back to the start; keeps its memory.
  void reset();
  // Back to where `position` tokens were consumed: what full attention alone remembers can be cut. False: this state cannot, and
  // stays (trial.h goes back over one pass, and a copy over any distance).
  bool cut(int64_t position);

  // Used by the forward pass and by state files.
  float* fixed(const StateLayout::Slot& slot) { return fixed_.data() + slot.offset; }
  std::vector<float>& fixed_numbers() { return fixed_; }
  const std::vector<float>& fixed_numbers() const { return fixed_; }
  KvCache& cache(const StateLayout::Slot& slot) { return caches_[slot.cache]; }
  std::vector<KvCache>& caches() { return caches_; }
  const std::vector<KvCache>& caches() const { return caches_; }
  void set_position(int64_t position) { position_ = position; }

 private:
  std::shared_ptr<const StateLayout> layout_;
  std::vector<float> fixed_;
  std::vector<KvCache> caches_;
  int64_t position_ = 0;
};

}  // namespace retort
