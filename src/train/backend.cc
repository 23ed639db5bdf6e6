// The torch side of a run: loads the teacher, plans and starts the student, makes its stages, writes it.
#include <algorithm>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/hash.h"
#include "base/path.h"
#include "base/timing.h"
#include "io/hf_writer.h"
#include "io/model_files.h"
#include "mixers/list.h"
#include "train/rank.h"
#include "train/stages.h"
#include "train/student_plan.h"
#include "train/student_start.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

constexpr int kCalibrationRow = 512;
constexpr int kRankingRows = 2;

bool listed(const StageSpec& stage, const char* pattern) {
  return std::find(stage.train.begin(), stage.train.end(), pattern) != stage.train.end();
}

// Hash of all weights' bytes, in the order of their names.
Result<std::string> hash_weights(const WeightStore& store) {
  uint64_t hash = kFnvStart;
  auto names = store.names();
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    RETORT_TRY(auto view, store.tensor(name));
    const auto* bytes = view.data;
    const int64_t size = view.bytes();
    hash = fnv1a(name, hash);
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
      uint64_t word;
      std::memcpy(&word, bytes + i, 8);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
      hash ^= hash >> 29;
    }
    for (; i < size; ++i) hash = fnv1a_unit(uint8_t(bytes[i]), hash);
  }
  return hex(hash);
}

// To the system, what is free: it would be kept for this process otherwise.
void give_back_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

class TorchBackend : public Backend {
 public:
  TorchBackend(Recipe recipe, ModelFiles files, TorchModel teacher, std::string hash, const BackendOptions& options, int rows_at_once)
      : recipe_(std::move(recipe)), files_(std::move(files)), teacher_(std::move(teacher)), hash_(std::move(hash)), pool_(options.threads),
        shards_(options.group ? *options.group : one_process()), rows_at_once_(rows_at_once) {
  }

  const ModelConfig& teacher() const override { return teacher_.config; }
  std::string teacher_hash() const override { return hash_; }

  Result<StartReport> start(const StudentSpec& spec, const CalibrationText& text, uint64_t seed) override {
    const auto begin = Clock::now();
    StartReport report;
    RETORT_TRY(ModelConfig pure, pure_student(teacher_.config, spec));
    auto parts = empty_parts(pure);
    student_ = teacher_;
    student_.config = pure;
    own_body_ = false;
    RETORT_RETURN_IF_ERROR(first_values(spec, text, seed, pure, parts));
    const double started = seconds_since(begin);
    if (spec.keep.kind == KeepSpec::Kind::kNone) {
      student_.layers = std::move(parts);
    } else {
      RETORT_RETURN_IF_ERROR(keep_attention(spec.keep, text, parts, report));
    }
    report.plan = student_.config.plan;
    report.details["start_seconds"] = started;
    report.details["rank_seconds"] = seconds_since(begin) - started;
    own_trained();
    return report;
  }

  Status restore(const StudentSpec& spec, const std::vector<LayerPlan>& plan) override {
    student_ = teacher_;
    RETORT_TRY(student_.config, student_sizes(teacher_.config, spec));
    student_.config.plan = plan;
    RETORT_RETURN_IF_ERROR(validate_plan(student_.config));
    student_.layers = empty_parts(student_.config);
    own_body_ = false;
    if (is_draft()) {
      RETORT_RETURN_IF_ERROR(values_from_folder(spec.start, student_.config, student_.layers));
      own_trained();
      return {};
    }
    if (spec.start != "teacher" && path_exists(spec.start)) {
      RETORT_TRY(auto files, open_model(spec.start));
      RETORT_TRY(auto source, load_model(files, Numeric::kExact));
      take_body(source);
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
    for (Leaf& leaf : leaves_) {
      for (const Leaf::Slice& s : leaf.slices) {
        out.push_back({s.name, s.group, s.decays, 0, memory_of(leaf, s.offset, s.count).value, {}});
      }
    }
    return out;
  }

  Result<std::unique_ptr<StageRunner>> make_stage(const StageSpec& stage) override {
    StageContext context{teacher_, student_, pool_, {}, reached(stage, student_.config), &shards_, rows_at_once_};
    for (Leaf& leaf : leaves_) {
      const bool trained = trains_leaf(stage, context.reached, leaf);
      leaf.value.set_requires_grad(trained);
      if (leaf.gradient.defined()) leaf.gradient.zero_();
      if (trained) context.leaves.push_back(&leaf);
    }
    if (context.leaves.empty()) return invalid("recipe: stage '", stage.name, "' trains no tensor of this student that its losses reach");
    if (stage.compares_pairs()) return make_preference_stage(stage, std::move(context));
    return stage.layer_wise() ? make_align_stage(stage, std::move(context)) : make_logit_stage(stage, std::move(context));
  }

  Result<std::vector<float>> token_losses(const Batch& batch, bool of_teacher) override {
    const TorchModel& model = of_teacher ? teacher_ : student_;
    std::vector<float> out(batch.tokens.size());
    RETORT_RETURN_IF_ERROR(run_tasks(pool_, batch.rows, [&](int64_t r) {
      const std::span<const int32_t> tokens(batch.tokens.data() + r * batch.seq, size_t(batch.seq));
      const auto losses = train::token_losses(model, tokens, batch_rows(model, batch, int(r), 1));
      std::copy(losses.begin(), losses.end(), out.begin() + r * batch.seq);
    }));
    return out;
  }

  Status write_student(const std::string& path, const nlohmann::json& provenance) override {
    const auto tensors = student_tensors();
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
        const auto place = place_of(spec);
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
  // Nothing of a draft is the teacher's: all of it is in leaves_, and so in checkpoints and in what is written.
  bool is_draft() const { return student_.config.layers != teacher_.config.layers; }

  // Norms, MLPs, embeddings and head are those of the folder that the student starts from where they are not the teacher's: a draft's, or
  // such as an earlier run has trained. Then they are the student's own, as a draft's are.
  void take_body(const TorchModel& source) {
    own_body_ = is_draft() || !same_body(source.body, teacher_.body);
    if (own_body_) student_.body = source.body;
  }

  // Up to bf16, in which folders hold matrices.
  static bool same_body(const Body& a, const Body& b) {
    const auto same = [](const at::Tensor& x, const at::Tensor& y) { return x.sizes() == y.sizes() && at::equal(x.to(at::kBFloat16), y.to(at::kBFloat16)); };
    for (size_t l = 0; l < a.layers.size(); ++l) {
      const Body::Layer &x = a.layers[l], &y = b.layers[l];
      if (!same(x.input_norm, y.input_norm) || !same(x.post_norm, y.post_norm) || !same(x.gate_up, y.gate_up) || !same(x.down, y.down)) return false;
    }
    return same(a.embedding, b.embedding) && same(a.final_norm, b.final_norm) && same(a.head, b.head);
  }

  Status first_values(const StudentSpec& spec, const CalibrationText& text, uint64_t seed, const ModelConfig& config,
                      std::vector<std::vector<PartWeights>>& parts) {
    if (spec.start != "teacher") return values_from_folder(spec.start, config, parts);
    for (int l = 0; l < config.layers; ++l) {
      for (PartWeights& part : parts[l]) {
        const bool attention = part.part.mixer == Attention::kName;
        RETORT_RETURN_IF_ERROR(attention ? fill_attention(l, part) : fill_start(*files_.weights, config, l, seed, part));
      }
    }
    const int rows = std::max<int>(1, int(recipe_.data.calibration_tokens / kCalibrationRow));
    RETORT_TRY(Batch batch, text(rows, kCalibrationRow));
    return start_from_data(teacher_, batch, seed, pool_, parts);
  }

  Status values_from_folder(const std::string& path, const ModelConfig& config, std::vector<std::vector<PartWeights>>& parts) {
    RETORT_TRY(auto files, open_model(path));
    if (files.config.layers != config.layers || files.config.width != config.width) {
      return invalid(path, ": ", files.config.layers, " layers of width ", files.config.width, "; expected ", config.layers, " of width ",
                     config.width);
    }
    RETORT_TRY(auto source, load_model(files, Numeric::kExact));
    take_body(source);
    for (int l = 0; l < config.layers; ++l) {
      for (size_t p = 0; p < parts[l].size(); ++p) {
        PartWeights& to = parts[l][p];
        if (source.layers[l].size() != parts[l].size() || source.layers[l][p].part != to.part) {
          const auto heads = to.part.kv_heads.size() == size_t(config.kv_heads) ? "all heads" : cat("kv heads ", numbers_text(to.part.kv_heads));
          return invalid(path, ": layer ", l, " is not mixer '", to.part.mixer, "' with window ", to.part.window.size, " and ",
                         to.part.config.dump(), " over ", heads, ", which the recipe's student is");
        }
        RETORT_RETURN_IF_ERROR(fill_from(source.layers[l][p], to));
      }
    }
    return {};
  }

  Status fill_attention(int layer, PartWeights& part) {
    RETORT_RETURN_IF_ERROR(fill_start(*files_.weights, teacher_.config, layer, 0, part));
    for (size_t i = 0; i < part.table.size(); ++i) {
      if (part.values[i].defined() && part.table[i].floor == Precision::kQuantised && !attention_trains()) {
        part.values[i] = part.values[i].to(at::kBFloat16);
      }
    }
    return {};
  }

  bool attention_trains() const {
    return std::any_of(recipe_.stages.begin(), recipe_.stages.end(), [](const StageSpec& s) { return listed(s, "all") || listed(s, "attention"); });
  }

  Status keep_attention(const KeepSpec& keep, const CalibrationText& text, std::vector<std::vector<PartWeights>>& pure, StartReport& report) {
    RankedErrors errors;
    if (keep.kind == KeepSpec::Kind::kHeads || keep.kind == KeepSpec::Kind::kLayers) {
      RETORT_TRY(Batch batch, text(kRankingRows, kCalibrationRow));
      RETORT_TRY(errors, measure_errors(teacher_, pure, batch, pool_));
      report.details["layer_errors"] = errors.layers;
      report.details["head_errors"] = errors.heads;
    }
    const auto kept = choose_kept(keep, student_.config, errors);
    RETORT_RETURN_IF_ERROR(plan_kept(kept, report));
    student_.layers = empty_parts(student_.config);
    for (int l = 0; l < student_.config.layers; ++l) {
      for (PartWeights& part : student_.layers[l]) {
        if (part.part.mixer == Attention::kName) {
          RETORT_RETURN_IF_ERROR(fill_attention(l, part));
        } else {
          const auto source = std::find_if(pure[l].begin(), pure[l].end(), [&](const PartWeights& p) {
            return std::binary_search(p.part.kv_heads.begin(), p.part.kv_heads.end(), part.part.kv_heads.front());
          });
          RETORT_RETURN_IF_ERROR(fill_from(*source, part));
        }
      }
    }
    return {};
  }

  // The mixers keep what attention does not.
  Status plan_kept(const std::vector<std::pair<int, int>>& kept, StartReport& report) {
    ModelConfig& config = student_.config;
    std::vector<std::vector<bool>> exact(config.layers, std::vector<bool>(config.kv_heads, false));
    for (const auto& [l, g] : kept) {
      for (int h = 0; h < config.kv_heads; ++h) {
        if (g < 0 || g == h) exact[l][h] = true;
      }
      report.kept.push_back(g < 0 ? cat(l) : cat(l, ".", g));
    }
    for (int l = 0; l < config.layers; ++l) {
      auto& parts = config.plan[l].parts;
      Part attention;
      for (Part& part : parts) {
        if (part.mixer == Attention::kName) {
          for (int h : part.kv_heads) exact[l][h] = true;
        }
        std::erase_if(part.kv_heads, [&](int h) { return exact[l][h]; });
      }
      std::erase_if(parts, [](const Part& part) { return part.kv_heads.empty(); });
      for (int h = 0; h < config.kv_heads; ++h) {
        if (exact[l][h]) attention.kv_heads.push_back(h);
      }
      if (!attention.kv_heads.empty()) parts.push_back(attention);
    }
    return validate_plan(config);
  }

  static bool trains_leaf(const StageSpec& stage, const Reached& reached, const Leaf& leaf) {
    return std::any_of(leaf.slices.begin(), leaf.slices.end(), [&](const Leaf::Slice& s) { return trains(stage, s.name, s.group) && reached.contains(s.name); });
  }

  // Gives the student tensors of its own wherever a stage may change them or they are not the teacher's, and lists them.
  void own_trained() {
    leaves_.clear();
    const auto any_trains = [&](const std::string& name) {
      return std::any_of(recipe_.stages.begin(), recipe_.stages.end(), [&](const StageSpec& s) { return trains(s, name, TrainGroup::kProjection); });
    };
    const auto own = [&](at::Tensor& tensor, int layer, std::vector<std::string> names, bool decays) {
      if (!own_body_ && std::none_of(names.begin(), names.end(), any_trains)) return;
      tensor = tensor.to(at::kFloat, false, true).contiguous();
      Leaf leaf{tensor, {}, layer, false, {}};
      const int64_t count = tensor.numel() / int64_t(names.size());
      for (size_t i = 0; i < names.size(); ++i) leaf.slices.push_back({names[i], TrainGroup::kProjection, decays, int64_t(i) * count, count});
      leaves_.push_back(std::move(leaf));
    };
    for (int l = 0; l < student_.config.layers; ++l) {
      for (PartWeights& part : student_.layers[l]) own_part(l, part);
      const std::string base = cat("model.layers.", l, ".");
      Body::Layer& body = student_.body.layers[l];
      own(body.input_norm, l, {base + "input_layernorm.weight"}, false);
      own(body.post_norm, l, {base + "post_attention_layernorm.weight"}, false);
      own(body.gate_up, l, {base + "mlp.gate_proj.weight", base + "mlp.up_proj.weight"}, true);
      own(body.down, l, {base + "mlp.down_proj.weight"}, true);
    }
    const bool tied = student_.config.tie_embeddings;
    own(student_.body.embedding, -1, {"model.embed_tokens.weight"}, true);
    if (tied) student_.body.head = student_.body.embedding;
    if (!tied) own(student_.body.head, -1, {"lm_head.weight"}, true);
    own(student_.body.final_norm, -1, {"model.norm.weight"}, false);
    share_weights();
  }

  // From now on each rank has its share of both models.
  void share_weights() {
    shards_.add(teacher_);
    shards_.add(student_);
    for (Leaf& leaf : leaves_) leaf.share = shards_.add(leaf.value);
    give_back_memory();
  }

  void own_part(int layer, PartWeights& part) {
    const bool attention = part.part.mixer == Attention::kName;
    if (attention && !attention_trains() && !is_draft()) return;
    for (size_t i = 0; i < part.table.size(); ++i) {
      if (!part.values[i].defined()) continue;
      const TensorSpec& spec = part.table[i];
      const bool decays = spec.group == TrainGroup::kProjection && spec.shape.size() > 1;
      part.values[i] = part.values[i].to(at::kFloat).contiguous();
      leaves_.push_back({part.values[i], {}, layer, true, {{part.prefix + spec.name, spec.group, decays, 0, spec.count()}}});
    }
  }

  // All tensors that are the student's own or the teacher's attention, in the same order on all ranks.
  std::vector<at::Tensor> student_tensors() const {
    std::vector<at::Tensor> out;
    for (const Leaf& leaf : leaves_) out.push_back(leaf.value);
    for (const auto& layer : student_.layers) {
      for (const PartWeights& part : layer) out.insert(out.end(), part.values.begin(), part.values.end());
    }
    return out;
  }

  // Where in student_tensors() a tensor of the student is, and from which element on. Unset: it is as in the teacher's files.
  struct Place {
    int64_t tensor, offset;
  };
  std::optional<Place> place_of(const TensorSpec& spec) const {
    for (size_t i = 0; i < leaves_.size(); ++i) {
      for (const Leaf::Slice& s : leaves_[i].slices) {
        if (s.name == spec.name) return Place{int64_t(i), s.offset};
      }
    }
    int64_t tensor = int64_t(leaves_.size());
    for (const auto& layer : student_.layers) {
      for (const PartWeights& part : layer) {
        for (size_t i = 0; i < part.table.size(); ++i, ++tensor) {
          if (part.values[i].defined() && part.prefix + part.table[i].name == spec.name) return Place{tensor, 0};
        }
      }
    }
    return {};
  }

  Recipe recipe_;
  ModelFiles files_;
  TorchModel teacher_, student_;
  bool own_body_ = false;            // what is not a mixer is not the teacher's
  std::string hash_;
  ThreadPool pool_;
  Shards shards_;
  int rows_at_once_;
  std::vector<Leaf> leaves_;
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
  // Ranks compute as many rows at a time as rank 0 does: what they say to one another is the same then.
  RETORT_TRY(const double threads, of_leader(options.group ? *options.group : one_process(), double(ThreadPool(options.threads).size())));
  return std::unique_ptr<Backend>(
      std::make_unique<TorchBackend>(recipe, std::move(files), std::move(teacher), std::move(hash), options, int(threads)));
}

}  // namespace retort::train
