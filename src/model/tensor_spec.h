// What a tensor of a model is called, how big it is, where its first value comes from and how far it may be squeezed.
// One table is read by the importer, the trainer, the runtime, the exporter and the tests.
//
// Layer: model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace retort {

// The lowest precision a tensor may be stored in. Gates, decays, convolutions, norms and biases keep fp32: their errors
// compound along the sequence.
enum class Precision { kQuantised, kF32 };

// Optimiser group: projections inherited from the teacher take a small rate, new feature maps and gates a large one.
enum class TrainGroup { kBody, kProjection, kFeature, kGate };  // kBody: of no mixer

// The teacher's tensor that a block of rows starts from. Only the rows (for kOutput: columns) of the part's own heads are
// taken.
enum class TeacherSource { kNone, kQuery, kKey, kValue, kOutput, kQueryNorm, kKeyNorm };

// How a tensor is cut when a part owns only some of the heads it was trained with: blocks of rows per query head, the same within each of
// its InitBlocks (per kv head where the block says so), blocks of rows per kv head, blocks of columns per query head, or shared by all heads.
enum class HeadAxis { kShared, kQueryRows, kRowsOfBlocks, kKvRows, kQueryColumns };

struct InitBlock {
  enum class Kind { kTeacher, kConstant, kNormal, kIdentityConv, kIdentityPerHead, kLinspace, kLogCount, kLowRank };
  // What a constant is set by once the teacher has read text: r is the RMS of the teacher's head's output, its mean where heads share the
  // tensor, and 1 before.
  enum class Measure {
    kNone,
    kHeadRms,        // value r: a norm that takes the magnitude out of the heads puts the teacher's back in
    kGateOfHeadRms,  // the number whose SiLU is value r
  };
  Kind kind = Kind::kConstant;
  int64_t rows = 0;                          // 0: all rows of the tensor
  TeacherSource source = TeacherSource::kNone;
  bool bias = false;                         // kTeacher: the source's bias rather than its weight (0 when the teacher has none)
  double value = 0.0;                        // kConstant: value; kNormal: standard deviation; kLinspace: first
  double last = 0.0;                         // kLinspace, kLogCount: last
  double scale = 1.0;                        // kTeacher: factor
  Measure measure = Measure::kNone;          // kConstant
  bool by_kv_head = false;                   // HeadAxis::kRowsOfBlocks: the block has rows per kv head

  InitBlock of_kv_heads() const {
    InitBlock block = *this;
    block.by_kv_head = true;
    return block;
  }

  static InitBlock teacher(TeacherSource source, int64_t rows = 0, double scale = 1.0) {
    return {Kind::kTeacher, rows, source, false, 0, 0, scale};
  }
  static InitBlock teacher_bias(TeacherSource source, int64_t rows = 0, double scale = 1.0) {
    return {Kind::kTeacher, rows, source, true, 0, 0, scale};
  }
  static InitBlock constant(double value) { return {Kind::kConstant, 0, TeacherSource::kNone, false, value}; }
  static InitBlock normal(double stddev) { return {Kind::kNormal, 0, TeacherSource::kNone, false, stddev}; }
  static InitBlock head_rms(double value) { return {Kind::kConstant, 0, TeacherSource::kNone, false, value, 0, 1, Measure::kHeadRms}; }
  static InitBlock gate_of_head_rms(double value) {
    return {Kind::kConstant, 0, TeacherSource::kNone, false, value, 0, 1, Measure::kGateOfHeadRms};
  }
  // Depthwise convolution [channels, taps] that passes the current token through.
  static InitBlock identity_conv(int64_t rows = 0) { return {Kind::kIdentityConv, rows}; }
  // [heads, out, in] with ones on the diagonal of every head.
  static InitBlock identity_per_head() { return {Kind::kIdentityPerHead}; }
  static InitBlock linspace(double first, double last, int64_t rows = 0) {
    return {Kind::kLinspace, rows, TeacherSource::kNone, false, first, last};
  }
  // [heads, f, d] of kQuery or kKey: A_q and A_k with W_Q^T A_q^T A_k W_K the best approximation of rank f to the teacher's W_Q^T W_K, for
  // all query heads of a kv head at once.
  static InitBlock low_rank(TeacherSource source) { return {Kind::kLowRank, 0, source}; }
  // In every row the logarithms of numbers that rise evenly from 1 to `last`.
  static InitBlock log_count(double last) { return {Kind::kLogCount, 0, TeacherSource::kNone, false, 0, last}; }
};

using Shape = std::vector<int64_t>;
// Of a tensor that only some models have; empty: this one has not.
inline Shape shape_if(bool present, Shape shape) { return present ? shape : Shape{}; }

struct TensorSpec {
  std::string name;                          // below the part's prefix: "q_proj.weight"
  Shape shape;                               // empty: this model does not have the tensor
  Precision floor = Precision::kQuantised;
  TrainGroup group = TrainGroup::kBody;
  std::vector<InitBlock> init;               // rows concatenated
  HeadAxis heads = HeadAxis::kShared;

  bool present() const { return !shape.empty(); }
  int64_t count() const {
    int64_t n = present() ? 1 : 0;
    for (int64_t s : shape) n *= s;
    return n;
  }
};

}  // namespace retort
