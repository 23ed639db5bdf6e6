// A recipe: which student, which stages, on what text. Read from YAML; every key is known, every value has its type.
//
// Layer: train, torch-free. Plain values.
//
//   name: align-kd
//   seed: 1
//   student: {mixer: slots, window: 64, sinks: 4, config: {slots: 256}, layers: [{layers: 0-3, mixer: gla}], keep: none, start: teacher}
//   data: {train: [corpus.jsonl, {file: chat.jsonl, weight: 3}], held_out: 0.02}
//   defaults: {seq: 384, batch: 2}
//   stages:
//   - {name: align, loss: {attn_out: {form: relative}}, train: [mixers], minutes: 5, lr: 6e-4, schedule: {wsd: {warmup_steps: 10, decay: 0.4}}}
//   - {name: kd, loss: {logits: {form: kl}, ce: 0.1}, tokens: 2M, lr: 3e-4, logit_fraction: 0.25, clip: 1}
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"
#include "model/tensor_spec.h"

namespace retort::train {

// kMatrix: mixing matrices against the teacher's attention matrices. kAttnXent: the same as distributions, row by row.
enum class LossKind { kAttnOut, kHidden, kMatrix, kAttnXent, kLogits, kCe, kDpo };
// kMse: mean of squares. kL2: mean norm over D, of attn_out divided by sqrt(D). kRelative: ||y^ - y||^2 / ||y||^2 over the whole
// batch, per layer. kFrobenius: mean norm of a matrix. kKl, kSoftCe: between two distributions. kSigmoid: of a pair's margin (dpo).
enum class LossForm { kMse, kL2, kRelative, kFrobenius, kKl, kSoftCe, kHard, kSigmoid };
enum class Reduction { kTokenMean, kBatchMean };
// Which positions count: all, or those whose next token is a label (Batch).
enum class LossMask { kAll, kLabels };
// What dpo holds the student against: the teacher, or the student as it is when the stage begins.
enum class Reference { kTeacher, kStart };

struct LossSpec {
  LossKind kind = LossKind::kAttnOut;
  LossForm form = LossForm::kRelative;
  double weight = 1.0;
  double temperature = 1.0;                      // logits
  Reduction reduction = Reduction::kTokenMean;   // logits
  bool at_heads = false;                         // attn_out: before the output projection
  int gap = 1;                                   // hidden: consecutive student blocks, compared behind the last
  LossMask mask = LossMask::kAll;                // logits, ce
  double beta = 0.1;                             // dpo
  Reference reference = Reference::kTeacher;     // dpo
  std::string cache;                             // logits: the folder of the teacher's largest ones (logit_cache.h); empty: none
  int top_k = 32;                                // logits, with a cache: how many of a position
};

enum class ScheduleKind { kConstant, kLinear, kCosine, kWsd, kPlateau };

// When a loss counts as falling no more (plateau.h).
struct PlateauSpec {
  int64_t every = 100;         // steps that one mean is over
  int64_t patience = 10;       // means in a row that may be no better than the best before them
  double threshold = 1e-4;     // the share of the best one by which a better one is lower
};

// Progress runs from 0 to 1 over the stage; a number of steps wins over a fraction when it is set.
struct ScheduleSpec {
  ScheduleKind kind = ScheduleKind::kWsd;
  double warmup = 0.0;
  int64_t warmup_steps = -1;   // -1: not given
  double decay = 0.2;          // wsd: the last share of the stage
  int64_t decay_steps = -1;
  double min_lr = 0.0;         // absolute; the groups' minima keep the same ratio to their peaks
  double factor = 0.1;         // plateau: what the rate is multiplied with at each
  PlateauSpec plateau;
};

// A stage's second teacher, and from when on.
struct SwitchSpec {
  enum class When { kPlateau, kStep, kFraction };
  std::string to;              // MODEL; empty: there is none
  When when = When::kPlateau;
  int64_t step = 0;            // kStep: so many steps have the first one
  double fraction = 0;         // kFraction: of the budget
  PlateauSpec plateau{100, 5, 0.01};
};

// At least one is given; several: the first reached ends the stage. 0: not given; a recipe that says 0 is refused.
struct Budget {
  int64_t tokens = 0;
  int64_t steps = 0;
  double minutes = 0;          // wall time of the stage; its schedule then runs on the clock
  double epochs = 0;           // times the stage's data is read, in whole steps (epoch_size.h)
};

struct DataSource {
  DataSource(std::string name, double share = 0) : file(std::move(name)), weight(share) {}
  std::string file;                              // or a folder of them
  double weight = 0;                             // its share of the tokens, relative to the others'; 0: not given
  bool operator==(const DataSource&) const = default;
};

// None when no source has a weight; otherwise one each, 1 where none is given.
std::vector<double> weights_of(const std::vector<DataSource>& sources);

// Low-rank updates of matrices that themselves stay: W + (alpha / r) B A, A [r, in], B [out, r] (lora.h).
struct LoraSpec {
  int r = 0;                                     // 0: none
  double alpha = 0;
  std::vector<std::string> on;                   // q, k, v, o (of mixers and of kept attention), gate, up, down, or globs on tensor names
};

struct StageSpec {
  std::string name;
  std::vector<LossSpec> losses;
  std::vector<std::string> train = {"mixers"};   // see trains(); empty: LoRA alone
  LoraSpec lora;
  int seq = 512;
  int batch = 1;               // rows of seq tokens; dpo: pairs of them
  int accumulate = 1;          // batches per optimiser step
  Budget budget;
  double lr = 0;               // everything that has no rate of its own below
  double lr_mixers = 0;        // of what is a mixer's, kept attention too; 0: lr
  double lr_features = 0;      // of mixers' new feature maps; 0: lr_mixers
  double lr_gates = 0;         // of mixers' gates; 0: lr_mixers
  std::array<double, 2> betas = {0.9, 0.95};
  double weight_decay = 0;
  double eps = 1e-8;
  ScheduleSpec schedule;
  double clip = 0;             // largest gradient norm; 0: off. Layer-wise stages clip each layer on its own
  int max_skipped = 5;         // steps in a row whose loss or gradient is not finite: they change nothing, and the last one ends the run
  double ema = 0;              // decay of the weight average the stage ends with; 0: off
  double logit_fraction = 1;   // share of positions whose logits are compared
  int repeat_every = 0;        // every n-th batch holds a pasted repeat of an earlier passage; 0: none
  bool checkpoint_activations = false;   // end to end: only what goes into a layer is kept, the way back computes the layer again; same bits
  int max_prompt = 0;          // dpo: prompts keep their last so many tokens; 0: half of seq
  std::vector<DataSource> data;                  // the stage's own; none: the recipe's
  SwitchSpec switch_teacher;

  // No loss looks past the layer it belongs to: layers are independent, fed by the teacher.
  bool layer_wise() const;
  const LossSpec* find(LossKind kind) const;     // null: not used
  bool compares_pairs() const { return find(LossKind::kDpo) != nullptr; }
  int64_t tokens_per_step() const { return int64_t(batch) * seq * accumulate * (compares_pairs() ? 2 : 1); }   // rows counted whole
};

// Attention that stays.
struct KeepSpec {
  enum class Kind { kNone, kHeads, kLayers, kFraction, kList };
  Kind kind = Kind::kNone;
  int count = 0;                                 // kHeads, kLayers: that many, by measured error
  double fraction = 0;                           // kFraction: of the layers, interleaved
  std::vector<std::pair<int, int>> list;         // kList: (layer, kv head); kv head -1: the whole layer
};

struct MixerSpec {
  std::string mixer = "slots";
  WindowConfig window{64, 4};
  nlohmann::json config = nlohmann::json::object();   // the mixer's fields
};

// Another mixer in some layers, or for some of their kv heads.
struct LayerSpec : MixerSpec {
  std::vector<int> layers;                            // rising
  std::vector<int> heads;                             // rising; empty: all of the layer's
};

// The way to the layout that `keep` names: the first stage runs once for each step, and each step replaces more attention (stepwise.h).
struct StepwiseSpec {
  std::vector<double> shares;                    // kept by the steps before the last, falling, of the layers
  bool one_by_one = false;                       // a step for every layer, each with its share of the stage's budget
  bool any() const { return one_by_one || !shares.empty(); }
};

// What the projections of mixers start from: the teacher's q, k, v and o, or random ones of their shapes (the papers' ablation of that copy).
enum class StudentInit { kTeacher, kRandom };

struct StudentSpec : MixerSpec {                      // of what `layers` does not name
  std::vector<LayerSpec> layers;                      // no kv head of a layer is in two of them
  KeepSpec keep;
  StepwiseSpec stepwise;
  StudentInit init = StudentInit::kTeacher;
  std::string start = "teacher";                      // or the folder of another student
};

struct DataSpec {
  std::vector<DataSource> train;                 // --data adds to them; of every stage that has none of its own
  double held_out = 0.02;                        // share of documents never trained on
  int64_t calibration_tokens = 12288;            // for the start: k-means, ranking of heads
};

struct Recipe {
  std::string path;                              // where it was read from, for messages
  std::string name;
  uint64_t seed = 1;
  bool save_init = false;                        // also write the student as initialised
  double checkpoint_minutes = 2;                 // 0: only at stage ends
  StudentSpec student;
  DataSpec data;
  std::vector<StageSpec> stages;
};

// "stage.key=value", "student.key=value", "data.key=value" or "key=value"; the value is YAML.
struct Override {
  std::string key, value;
  std::string flag;                              // how the user wrote it, for messages
};

Result<Recipe> load_recipe(const std::string& path, const std::vector<Override>& overrides = {});
Result<Recipe> parse_recipe(const std::string& text, const std::string& path, const std::vector<Override>& overrides = {});

// Everything, defaults applied; parse_recipe(resolved_yaml(r)) gives r again.
std::string resolved_yaml(const Recipe& recipe);
nlohmann::ordered_json recipe_json(const Recipe& recipe);

// "none", "heads:12", "layers:6", "0.25", or "list:18.2,23.0,7": layer.kv_head, or a whole layer.
Result<KeepSpec> parse_keep(const std::string& text);
std::string keep_text(const KeepSpec& keep);

// "0-3,7" -> 0, 1, 2, 3, 7, sorted; every number once.
Result<std::vector<int>> parse_numbers(const std::string& text);
std::string numbers_text(const std::vector<int>& numbers);

const char* loss_name(LossKind kind);            // attn_out, hidden, matrix, attn_xent, logits, ce, dpo
const char* form_name(LossForm form);
const char* schedule_name(ScheduleKind kind);

// Does the stage train this tensor? A pattern is one of all, mixers, projections, features, gates (of mixers), mlp, norms,
// embeddings (head included), or a glob on the full name. Kept attention is no mixer; name it with "attention".
bool trains(const StageSpec& stage, const std::string& tensor, TrainGroup group);

}  // namespace retort::train
