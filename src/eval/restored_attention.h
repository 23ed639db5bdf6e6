// A student in which some of the teacher's attention is put back, without training: which attention is worth keeping is seen by trying.
// Layer-wise alignment trains every layer by itself, so such a model is the hybrid that the same alignment would have given.
//
// Layer: eval. Thread-safe after making.
#pragma once

#include <string>
#include <vector>

#include "io/model_files.h"

namespace retort {

// A kv head of a layer with its query heads, or with kv_head -1 all of the layer.
struct AttentionUnit {
  int layer = 0, kv_head = -1;
  bool operator==(const AttentionUnit&) const = default;
};
// "18.2", or "18": what a recipe's student.keep calls it.
std::string unit_name(const AttentionUnit& unit);

// The units of a student that are no attention yet, layer by layer: whole layers, or kv heads.
std::vector<AttentionUnit> replaced_units(const ModelConfig& student, bool heads);

// The student's tensors, but at `kept` the teacher's attention; parts that lose heads are cut. The teacher is attention in every layer and
// has the student's sizes. A unit that the student has as attention, twice, or not at all is an error.
Result<ModelFiles> restore_attention(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& kept);

}  // namespace retort
