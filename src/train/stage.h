// The seam between the loop (run.h: data, schedules, optimiser, checkpoints; torch-free) and what computes losses and
// gradients (backend.cc: teacher, student, losses; torch).
//
// Layer: train, torch-free. Not thread-safe: one loop drives one backend.
//
// Life of a run:   open_backend -> start() or restore() -> for each stage: make_stage() -> step()* -> write_student()
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"
#include "model/tensor_spec.h"
#include "train/head_matrices.h"
#include "train/process_group.h"
#include "train/recipe.h"

namespace retort::train {

class LogitCache;

// Packed rows. Row r holds tokens[r*seq .. (r+1)*seq). `starts` has the index of every sequence's first token, ascending, every
// row's first index included: no sequence crosses a row, and neither state nor attention nor a target crosses a start.
//
// Pairs (dpo): rows 2i and 2i+1 are the chosen and the rejected answer to the same prompt; a row's first sequence is the conversation, and
// another one after it fills the row up.
struct Batch {
  int rows = 0;
  int seq = 0;                                   // at most the stage's
  std::vector<int32_t> tokens;
  std::vector<int32_t> starts;
  std::vector<uint8_t> labels;                   // 1: the token is one to predict (an answer's, or of plain text). Empty: all are
  int64_t padding = 0;                           // tokens that only fill rows up
  int64_t number = 0;                            // of its stream, from 0
};

// One trainable tensor, as memory that stays where it is while the backend lives. `gradient` is zero before the first step(); step()
// adds to it, the optimiser reads it and sets it back to zero.
struct Parameter {
  std::string name;                              // full name, as in model_tensors()
  TrainGroup group = TrainGroup::kBody;
  bool decays = false;                           // weight decay applies: matrices of projections
  int clip_group = 0;                            // gradient norms are clipped per group; layer-wise stages: the layer
  std::span<float> value;                        // of several ranks each has a piece, in their order
  std::span<float> gradient;                     // empty in Backend::tensors()
};

struct StepContext {
  int64_t step = 0;
  uint64_t seed = 0;                             // for this step and micro-batch: sampling of positions
  double scale = 1.0;                            // factor on the loss before backward: 1 / accumulate
};

struct LossPart {
  std::string name;                              // "attn_out", "logits", ...
  double value = 0;                              // unweighted, means as in the recipe
};

// A loss of a layer-wise stage, layer by layer; LossPart has their mean.
struct LayerLoss {
  std::string name;
  std::vector<double> values;                    // [layers], unweighted; NaN where a layer has no such loss
};

// Of several ranks each has its rows' share of these: their sums are the batch's.
struct StepResult {
  double loss = 0;                               // weighted sum, unscaled
  std::vector<LossPart> parts;
  std::vector<LossPart> measures;                // means worth a line that are no losses: "accuracy"
  double gemm_seconds = 0;                       // time inside matrix products, for the log
  double compute_seconds = 0;                    // of this call
  std::vector<LayerLoss> layers;                 // layer-wise stages
};

class StageRunner {
 public:
  virtual ~StageRunner() = default;
  // What trains in this stage. Same order on every call and after a resume.
  virtual std::vector<Parameter> parameters() = 0;
  // Forward and backward of this rank's rows; gradients are added to parameters(). `batch` is the whole one on all ranks. Never changes a
  // value. A loss that is not finite is returned, not an error; the gradients are then worthless.
  virtual Result<StepResult> step(const Batch& batch, const StepContext& context) = 0;
  // What the stage must remember from its first step on, beside the student: a checkpoint holds it, a resume writes it.
  virtual std::vector<Parameter> memory() { return {}; }
  // From the next step on the stage's second teacher is the one that is asked: opens it, once, for its weights and to see that it has this hash.
  virtual Status switch_teacher(const std::string& /*hash*/) { return internal_error("this stage has one teacher"); }
  // What the teacher says is in there, or is to be put there. Asked once, before the first step.
  virtual void use_cache(std::shared_ptr<LogitCache>) {}
  // After the last step: what the stage trained beside the student becomes part of it.
  virtual Status finish() { return {}; }
};

// Rows of training text, the next ones at each call: k-means, ranking.
using CalibrationText = std::function<Result<Batch>(int rows, int seq)>;

struct StartReport {
  std::vector<LayerPlan> plan;
  std::vector<std::string> kept;                 // "18.2" kv heads or "18" layers, best first
  nlohmann::json details;                        // errors per layer or head, seconds: for train.json
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const ModelConfig& teacher() const = 0;
  virtual std::string teacher_hash() const = 0;  // of the weights' bytes, 16 hex digits
  virtual int tokens() const { return teacher().vocab_size; }  // of its tokenizer; logits behind them are padding, which no loss counts
  // That MODEL can be a stage's second teacher, for rows of `seq` tokens; its hash.
  virtual Result<std::string> check_second_teacher(const std::string& model, int seq) = 0;

  // Plans the student and gives every tensor its first value. `seed` fixes everything random.
  virtual Result<StartReport> start(const StudentSpec& spec, const CalibrationText& text, uint64_t seed) = 0;
  // After start() and some stages: the same student with less attention, as `spec` keeps it. What stays keeps its values, trained or not; a
  // mixer in the place of attention starts from that attention as it is now.
  virtual Result<StartReport> advance(const StudentSpec& spec, const CalibrationText& text, uint64_t seed) = 0;
  // The same student without values of its own: tensors() is filled by the caller from a checkpoint.
  virtual Status restore(const StudentSpec& spec, const std::vector<LayerPlan>& plan) = 0;

  // Every tensor that some stage of the recipe may change or that start() made: what a checkpoint must hold.
  virtual std::vector<Parameter> tensors() = 0;
  virtual Result<std::unique_ptr<StageRunner>> make_stage(const StageSpec& stage) = 0;
  // -log p of every token of the batch given those before it in its sequence, in nats; -1 for the first of each sequence.
  virtual Result<std::vector<float>> token_losses(const Batch& batch, bool of_teacher) = 0;
  // A few heads of the student beside the teacher's, on the batch's first row read as one sequence. None where no layer of the student
  // stands beside one of the teacher's (drafts), or all of it is attention.
  virtual Result<std::vector<HeadMatrices>> head_matrices(const Batch&) { return std::vector<HeadMatrices>(); }
  // Name and version of what computes: "LibTorch 2.5.1".
  virtual std::string library() const { return "none"; }
  // A Hugging Face folder, atomically, with `provenance` as distill_config. All ranks call it, rank 0 writes.
  virtual Status write_student(const std::string& folder, const nlohmann::json& provenance) = 0;
};

struct BackendOptions {
  std::string teacher;                           // MODEL
  int threads = 0;                               // 0: one per core
  ProcessGroup* group = nullptr;                 // null: one process. Otherwise a batch's rows are dealt over the ranks (process_group.h)
  int rows_at_once = 0;                          // rows that are computed together, the same on all ranks; 0: as many as there are threads
  int tokens = 0;                                // of the teacher's tokenizer; 0: of a teacher without one, whose every logit is a token's
};

// Loads the teacher. The recipe tells which tensors any stage will train. (backend.cc, train-core)
Result<std::unique_ptr<Backend>> open_backend(const Recipe& recipe, const BackendOptions& options);

}  // namespace retort::train
