// The torch side of a run: loads the teacher, plans and starts the student, makes its stages, writes it.
#include <algorithm>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/interrupt.h"
#include "base/path.h"
#include "base/timing.h"
#include "io/hf_writer.h"
#include "io/model_files.h"
#include "mixers/list.h"
#include "train/lora.h"
#include "train/matrix_pictures.h"
#include "train/rank.h"
#include "train/second_teacher.h"
#include "train/stages.h"
#include "train/student_carry.h"
#include "train/student_leaves.h"
#include "train/student_plan.h"
#include "train/student_start.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

constexpr int kCalibrationRow = 512;
constexpr int kRankingRows = 2;

// To the system, what is free: it would be kept for this process otherwise.
void give_back_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

class TorchBackend : public Backend {
 public:
  TorchBackend(Recipe recipe, ModelFiles files, TorchModel teacher, std::string hash, const BackendOptions& options)
      : recipe_(std::move(recipe)), files_(std::move(files)), teacher_(std::move(teacher)), hash_(std::move(hash)), pool_(options.threads),
        tokens_(options.tokens > 0 ? std::min(options.tokens, files_.config.vocab_size) : files_.config.vocab_size), shards_(options.group ? *options.group : one_process()), rows_at_once_(options.rows_at_once), leaves_(recipe_) {}

  const ModelConfig& teacher() const override { return teacher_.config; }
  std::string teacher_hash() const override { return hash_; }
  int tokens() const override { return tokens_; }

  Result<std::string> check_second_teacher(const std::string& model, int seq) override {
    RETORT_TRY(const auto second, open_second_teacher(files_, model, seq));
    return hash_weights(*second.weights);
  }

  Result<StartReport> start(const StudentSpec& spec, const CalibrationText& text, uint64_t seed) override {
    const auto begin = Clock::now();
    StartReport report;
    RETORT_TRY(const ModelConfig pure, pure_student(teacher_.config, spec));
    student_ = teacher_;
    student_.config = pure;
    owns_ = {};
    if (spec.start == "teacher") {
      auto parts = empty_parts(pure);
      RETORT_RETURN_IF_ERROR(first_values(spec, text, seed, pure, parts));
      report.details["start_seconds"] = seconds_since(begin);
      RETORT_RETURN_IF_ERROR(keep_attention(spec.keep, nullptr, text, parts, report));
    } else {
      RETORT_TRY(const TorchModel before, open_student(spec.start));
      RETORT_RETURN_IF_ERROR(take_over(before, spec, pure, text, seed, report));
      report.details["start_seconds"] = seconds_since(begin);
    }
    report.plan = student_.config.plan;
    report.details["rank_seconds"] = seconds_since(begin) - report.details["start_seconds"].get<double>();
    own_trained();
    return report;
  }

  Result<StartReport> advance(const StudentSpec& spec, const CalibrationText& text, uint64_t seed) override {
    StartReport report;
    RETORT_RETURN_IF_ERROR(shards_.dissolve());
    RETORT_TRY(const ModelConfig pure, pure_student(teacher_.config, spec));
    const TorchModel before = student_;
    RETORT_RETURN_IF_ERROR(take_over(before, spec, pure, text, seed, report));
    report.plan = student_.config.plan;
    own_trained();
    return report;
  }

  Status restore(const StudentSpec& spec, const std::vector<LayerPlan>& plan) override {
    student_ = teacher_;
    RETORT_TRY(student_.config, student_sizes(teacher_.config, spec));
    student_.config.plan = plan;
    RETORT_RETURN_IF_ERROR(validate_plan(student_.config));
    student_.layers = empty_parts(student_.config);
    owns_ = {};
    if (spec.start != "teacher") {
      RETORT_TRY(const TorchModel source, open_student(spec.start));
      if (is_draft()) {
        RETORT_RETURN_IF_ERROR(carry(source, spec, {}, 0, student_.config, student_.layers));
        own_trained();
        return {};
      }
    }
    for (int l = 0; l < student_.config.layers; ++l) {
      for (PartWeights& part : student_.layers[l]) {
        if (part.part.mixer == Attention::kName) {
          RETORT_RETURN_IF_ERROR(fill_attention(l, part));
          continue;
        }
        for (size_t i = 0; i < part.table.size(); ++i) {
          if (part.table[i].present()) part.values[i] = at::zeros(part.table[i].shape);
        }
      }
    }
    own_trained();
    return {};
  }

  std::vector<Parameter> tensors() override {
    std::vector<Parameter> out;
    for (Leaf& leaf : leaves_.all()) {
      for (const Leaf::Slice& s : leaf.slices) {
        out.push_back({s.name, s.group, s.decays, 0, memory_of(leaf, s.offset, s.count).value, {}});
      }
    }
    return out;
  }

  Result<std::unique_ptr<StageRunner>> make_stage(const StageSpec& stage) override {
    StageContext context{teacher_, student_, pool_, {}, reached(stage, student_.config), {}, &shards_, tokens_, rows_at_once_};
    context.open_second = [this, stage](const std::string& hash) -> Result<TorchModel> {
      auto second = load_second(stage, hash);
      RETORT_RETURN_IF_ERROR(agree(shards_.group(), second));
      shards_.add(*second);
      give_back_memory();
      return second;
    };
    RETORT_TRY(const auto targets, lora_targets(stage, student_.config));
    std::vector<Leaf*> adapted;
    for (Leaf& leaf : leaves_.all()) {
      const bool trained = leaves_.trains(stage, context.reached, leaf);
      leaf.value.set_requires_grad(trained);
      if (leaf.gradient.defined()) leaf.gradient.zero_();
      if (!is_adapted(targets, leaf)) {
        if (trained) context.leaves.push_back(&leaf);
        continue;
      }
      if (trained) return invalid("recipe: ", stage.name, ".train: ", leaf.slices[0].name, " and what lies beside it cannot both train and have LoRA");
      adapted.push_back(&leaf);
    }
    if (context.leaves.empty() && adapted.empty()) {
      return trains_nothing(stage, student_.config);
    }
    if (!adapted.empty()) return make_lora_stage(stage, targets, adapted, std::move(context), recipe_.seed);
    return make_stage_runner(stage, std::move(context));
  }

  Result<std::vector<float>> token_losses(const Batch& batch, bool of_teacher) override {
    const TorchModel& model = of_teacher ? teacher_ : student_;
    RETORT_TRY(const Shards::Hold hold, shards_.gather(all_weights(model)));
    std::vector<float> out(batch.tokens.size());
    RETORT_RETURN_IF_ERROR(run_tasks(pool_, batch.rows, [&](int64_t r) {
      const std::span<const int32_t> tokens(batch.tokens.data() + r * batch.seq, size_t(batch.seq));
      const auto losses = train::token_losses(model, tokens, batch_rows(model, batch, int(r), 1));
      std::copy(losses.begin(), losses.end(), out.begin() + r * batch.seq);
    }));
    return out;
  }

  Result<std::vector<HeadMatrices>> head_matrices(const Batch& batch) override {
    if (is_draft()) return std::vector<HeadMatrices>();
    return train::head_matrices(teacher_, student_, {batch.tokens.data(), size_t(batch.seq)}, pool_, shards_);
  }
  std::string library() const override { return "LibTorch " TORCH_VERSION; }

  Status write_student(const std::string& path, const nlohmann::json& provenance) override {
    const auto tensors = leaves_.tensors(student_);
    std::vector<float> whole;   // of the tensor that was asked for last; on rank 0
    const auto take = [&](int64_t i) -> Status {
      const at::Tensor& tensor = tensors[size_t(i)];
      RETORT_TRY(const Shards::Hold hold, shards_.gather({tensor}));
      if (!shards_.group().leads()) return {};
      const at::Tensor value = tensor.detach().to(at::kFloat).contiguous();
      whole.assign(value.data_ptr<float>(), value.data_ptr<float>() + value.numel());
      return {};
    };
    return led(shards_.group(), [&](const Together& ask) -> Status {
      HfFolder folder;
      folder.config = student_.config;
      folder.config.provenance = provenance;
      folder.matrices = TensorType::kBF16;
      folder.values = [&](const TensorSpec& spec) -> Result<std::vector<float>> {
        const auto place = leaves_.place_of(student_, spec);
        if (!place) {
          RETORT_TRY(auto view, files_.weights->tensor(spec.name));
          return read_f32(view);
        }
        RETORT_RETURN_IF_ERROR(ask(place->tensor));
        return std::vector<float>(whole.begin() + place->offset, whole.begin() + place->offset + spec.count());
      };
      RETORT_TRY(folder.extra_files, read_tokenizer_files(files_));
      return write_hf_folder(path, folder);
    }, take);
  }

 private:
  Result<TorchModel> load_second(const StageSpec& stage, const std::string& hash) const {
    RETORT_TRY(const auto files, open_same_second_teacher(files_, stage, hash));
    return load_model(files, teacher_.numeric);
  }

  // Nothing of a draft is the teacher's: all of it is in leaves_, and so in checkpoints and in what is written.
  bool is_draft() const { return student_.config.layers != teacher_.config.layers; }

  // A student's folder as it is. Norms, MLPs, embeddings, head and attention are the folder's where they are not the teacher's: a draft's, or
  // such as an earlier run has trained. Then they are the student's own, as a draft's are.
  Result<TorchModel> open_student(const std::string& path) {
    RETORT_TRY(const auto files, open_model(path));
    if (files.config.layers != student_.config.layers || files.config.width != student_.config.width) {
      return invalid(path, ": ", files.config.layers, " layers of width ", files.config.width, "; expected ", student_.config.layers, " of width ",
                     student_.config.width);
    }
    RETORT_TRY(TorchModel source, load_model(files, Numeric::kExact));
    owns_.body = is_draft() || !same_body(source.body, teacher_.body);
    if (owns_.body) student_.body = source.body;
    else source.body = student_.body;
    RETORT_TRY(owns_.attention, has_own_attention(source));
    source.numeric = teacher_.numeric;
    return source;
  }

  Result<bool> has_own_attention(const TorchModel& source) {
    if (is_draft()) return false;
    for (int l = 0; l < source.config.layers; ++l) {
      for (const PartWeights& part : source.layers[l]) {
        if (part.part.mixer != Attention::kName) continue;
        PartWeights teachers = part;
        RETORT_RETURN_IF_ERROR(fill_start(*files_.weights, teacher_.config, l, 0, teachers));
        for (size_t i = 0; i < part.values.size(); ++i) {
          if (part.values[i].defined() && !same(part.values[i], teachers.values[i])) return true;
        }
      }
    }
    return false;
  }

  // Up to bf16, in which folders hold matrices.
  static bool same(const at::Tensor& x, const at::Tensor& y) { return x.sizes() == y.sizes() && at::equal(x.to(at::kBFloat16), y.to(at::kBFloat16)); }
  static bool same_body(const Body& a, const Body& b) {
    for (size_t l = 0; l < a.layers.size(); ++l) {
      const Body::Layer &x = a.layers[l], &y = b.layers[l];
      if (!same(x.input_norm, y.input_norm) || !same(x.post_norm, y.post_norm) || !same(x.gate_up, y.gate_up) || !same(x.down, y.down)) return false;
    }
    return same(a.embedding, b.embedding) && same(a.final_norm, b.final_norm) && same(a.head, b.head);
  }

  Status first_values(const StudentSpec& spec, const CalibrationText& text, uint64_t seed, const ModelConfig& config,
                      std::vector<std::vector<PartWeights>>& parts) {
    for (int l = 0; l < config.layers; ++l) {
      if (interrupted()) return interrupted_error();
      for (PartWeights& part : parts[l]) {
        const bool attention = part.part.mixer == Attention::kName;
        RETORT_RETURN_IF_ERROR(attention ? fill_attention(l, part) : fill_start(*files_.weights, config, l, seed, part, spec.init));
      }
    }
    RETORT_TRY(const auto copied, copied_attention(spec, seed));
    RETORT_TRY(Batch batch, text(calibration_rows(), kCalibrationRow));
    return start_from_data(teacher_, copied, batch, seed, pool_, parts);
  }

  // The attention that the mixers' projections are copies of, by layer.
  Result<std::vector<std::vector<PartWeights>>> copied_attention(const StudentSpec& spec, uint64_t seed) {
    if (spec.init == StudentInit::kTeacher) return teacher_.layers;
    auto copied = empty_parts(teacher_.config);
    for (int l = 0; l < teacher_.config.layers; ++l) {
      RETORT_RETURN_IF_ERROR(fill_start(*files_.weights, teacher_.config, l, seed, copied[l][0], spec.init));
    }
    return copied;
  }

  // The student that the recipe makes of another one.
  Status take_over(const TorchModel& before, const StudentSpec& spec, const ModelConfig& pure, const CalibrationText& text, uint64_t seed,
                   StartReport& report) {
    if (is_measured(spec.keep)) {
      auto parts = empty_parts(pure);
      RETORT_RETURN_IF_ERROR(carry(before, spec, text, seed, pure, parts));
      return keep_attention(spec.keep, &before, text, parts, report);
    }
    RETORT_RETURN_IF_ERROR(plan_kept(pure, listed_attention(spec.keep, pure.layers), report));
    auto parts = empty_parts(student_.config);
    RETORT_RETURN_IF_ERROR(carry(before, spec, text, seed, student_.config, parts));
    student_.layers = std::move(parts);
    return {};
  }

  Status carry(const TorchModel& before, const StudentSpec& spec, const CalibrationText& text, uint64_t seed, const ModelConfig& config,
               std::vector<std::vector<PartWeights>>& parts) {
    const auto own = attention_weights(before);
    const bool as_teacher = spec.start == "teacher" && std::none_of(before.layers.begin(), before.layers.end(), [&](const auto& layer) {
      return std::any_of(layer.begin(), layer.end(), [&](const PartWeights& part) { return attention_trains(recipe_, part); });
    });
    const bool random = spec.init == StudentInit::kRandom;
    RETORT_TRY(const auto copied, copied_attention(spec, seed));
    Carry carried{before, spec.start == "teacher" ? "the student" : spec.start, as_teacher || random ? *files_.weights : *own,
                  random ? copied : before.layers};
    carried.init = spec.init;
    carried.starts = !is_draft();
    carried.teachers = [this](int layer, PartWeights& part) { return fill_attention(layer, part); };
    carried.text = text;
    carried.text_rows = calibration_rows(), carried.text_seq = kCalibrationRow;
    carried.seed = seed;
    RETORT_RETURN_IF_ERROR(carry_over(carried, config, pool_, parts));
    for (auto& layer : parts) {
      for (PartWeights& part : layer) narrow_frozen(part);
    }
    return {};
  }

  int calibration_rows() const { return std::max<int>(1, int(recipe_.data.calibration_tokens / kCalibrationRow)); }

  Status fill_attention(int layer, PartWeights& part) {
    RETORT_RETURN_IF_ERROR(fill_start(*files_.weights, teacher_.config, layer, 0, part));
    narrow_frozen(part);
    return {};
  }

  // Attention that never trains is computed with in bf16.
  void narrow_frozen(PartWeights& part) const {
    if (part.part.mixer != Attention::kName || attention_trains(recipe_, part)) return;
    for (size_t i = 0; i < part.table.size(); ++i) {
      if (part.values[i].defined() && part.table[i].floor == Precision::kQuantised) part.values[i] = part.values[i].to(at::kBFloat16);
    }
  }

  // `pure` are the mixers of all heads; what they leave to attention has the values of `before`, where it had attention there, or the teacher's.
  Status keep_attention(const KeepSpec& keep, const TorchModel* before, const CalibrationText& text, std::vector<std::vector<PartWeights>>& pure,
                        StartReport& report) {
    if (keep.kind == KeepSpec::Kind::kNone) {
      student_.layers = std::move(pure);
      return {};
    }
    RankedErrors errors;
    if (is_measured(keep)) {
      RETORT_TRY(Batch batch, text(kRankingRows, kCalibrationRow));
      RETORT_TRY(errors, measure_errors(teacher_, pure, batch, pool_));
      report.details["layer_errors"] = errors.layers;
      report.details["head_errors"] = errors.heads;
    }
    RETORT_RETURN_IF_ERROR(plan_kept(student_.config, choose_kept(keep, student_.config, errors), report));
    student_.layers = empty_parts(student_.config);
    for (int l = 0; l < student_.config.layers; ++l) {
      for (PartWeights& part : student_.layers[l]) {
        const bool attention = part.part.mixer == Attention::kName;
        const PartWeights* source = !attention ? find_source(pure[l], part.part) : before ? find_source(before->layers[l], part.part) : nullptr;
        RETORT_RETURN_IF_ERROR(source ? fill_from(*source, part) : fill_attention(l, part));
        narrow_frozen(part);
      }
    }
    return {};
  }

  Status plan_kept(const ModelConfig& pure, const std::vector<std::pair<int, int>>& kept, StartReport& report) {
    for (const auto& [l, g] : kept) report.kept.push_back(g < 0 ? cat(l) : cat(l, ".", g));
    RETORT_TRY(student_.config, hybrid_student(pure, kept));
    return {};
  }

  static bool is_adapted(const std::vector<LoraTarget>& targets, const Leaf& leaf) {
    return std::any_of(leaf.slices.begin(), leaf.slices.end(), [&](const Leaf::Slice& s) {
      return std::any_of(targets.begin(), targets.end(), [&](const LoraTarget& target) { return target.tensor == s.name; });
    });
  }

  // From now on each rank has its share of both models.
  void own_trained() {
    leaves_.take(student_, {owns_.body, owns_.attention || is_draft()});
    shards_.add(teacher_);
    shards_.add(student_);
    for (Leaf& leaf : leaves_.all()) leaf.share = shards_.add(leaf.value);
    give_back_memory();
  }

  Recipe recipe_;
  ModelFiles files_;
  TorchModel teacher_, student_;
  StudentLeaves::Owns owns_;         // such as of a folder that the student starts from
  std::string hash_;
  ThreadPool pool_;
  int tokens_;                       // of the teacher's tokenizer
  Shards shards_;
  int rows_at_once_;
  StudentLeaves leaves_;             // of recipe_
};

}  // namespace

Result<std::unique_ptr<Backend>> open_backend(const Recipe& recipe, const BackendOptions& options) {
  at::set_num_threads(1);  // our own pool does the parallel work; torch's would spin beside it
  RETORT_TRY(auto files, open_model(options.teacher));
  if (!is_plain_transformer(files.config)) {
    return invalid(options.teacher, ": a student; the teacher must be a softmax-attention model in every layer");
  }
  RETORT_TRY(auto teacher, load_model(files, Numeric::kFast));
  RETORT_TRY(auto hash, hash_weights(*files.weights));
  return std::unique_ptr<Backend>(
      std::make_unique<TorchBackend>(recipe, std::move(files), std::move(teacher), std::move(hash), options));
}

}  // namespace retort::train
