// A backend without a model: every "tensor" is pulled towards a value that depends on the batch, so that data order, sampling seeds,
// optimiser state and schedules all leave their mark on the bits. For tests of the loop.
#pragma once

#include <cmath>
#include <limits>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "train/second_teacher.h"
#include "train/stage.h"

namespace retort::train::fake {

inline ModelConfig fake_config() {
  ModelConfig c;
  c.name = "fake";
  c.layers = 2, c.width = 8, c.heads = 2, c.kv_heads = 1, c.head_dim = 4, c.mlp_width = 16, c.vocab_size = 256, c.context_length = 512;
  c.plan = attention_plan(c);
  return c;
}

struct FakeTensor {
  std::string name;
  TrainGroup group;
  std::vector<float> value, gradient;
};

struct FakeBehaviour {
  int64_t nan_from = -1;                // losses are not finite from this step of the backend on
  std::function<void(int64_t)> on_step; // told the number of every step
  int64_t nan_steps = INT64_MAX;        // so many of them
  std::function<void(const Batch&)> on_batch;
  std::function<void()> on_start;       // told when the student starts
  std::function<void(const std::string&)> on_second_teacher; // told every opening of one

  // Of a second teacher, which is whatever is in the file.
  Result<std::string> hash_of(const std::string& model) const {
    if (on_second_teacher) on_second_teacher(model);
    if (model == "stranger") return invalid(model, ": other tokens");
    if (!path_exists(model)) return "hash of " + model;
    RETORT_TRY(const auto text, read_text_file(model));
    return "hash of " + text;
  }
};

class FakeRunner : public StageRunner {
 public:
  FakeRunner(std::vector<FakeTensor>& tensors, const StageSpec& stage, const FakeBehaviour& behaviour, int64_t& steps)
      : tensors_(tensors), stage_(stage), behaviour_(behaviour), steps_(steps) {
    if (stage.compares_pairs()) start_ = tensors.back().value;
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> out;
    int layer = 0;
    for (auto& t : tensors_) {
      if (trains(stage_, t.name, t.group)) out.push_back({t.name, t.group, true, stage_.layer_wise() ? layer : 0, t.value, t.gradient});
      ++layer;
    }
    return out;
  }

  Result<StepResult> step(const Batch& batch, const StepContext& context) override {
    const int64_t number = steps_++;
    if (behaviour_.on_step) behaviour_.on_step(number);
    if (behaviour_.on_batch) behaviour_.on_batch(batch);
    double loss = 0;
    uint64_t noise = context.seed;
    for (auto& p : parameters()) {
      for (size_t i = 0; i < p.value.size(); ++i) {
        noise = noise * 6364136223846793005ull + 1442695040888963407ull;
        const float target = float(batch.tokens[(i * 7) % batch.tokens.size()]) / 128.0f + float(noise >> 40) * 1e-9f + float(batch.starts.size()) * 0.01f;
        const float labels = batch.labels.empty() ? 0.0f : float(batch.labels[(i * 5) % batch.labels.size()]) * 0.02f;
        const float start = (start_.empty() ? 0.0f : start_[i % start_.size()]) + (switched_ ? 0.5f : 0.0f);
        const float difference = p.value[i] - target - labels - start;
        loss += double(difference) * double(difference);
        p.gradient[i] += float(context.scale) * 2 * difference;
      }
    }
    if (behaviour_.nan_from >= 0 && number >= behaviour_.nan_from && number - behaviour_.nan_from < behaviour_.nan_steps) loss = std::numeric_limits<double>::quiet_NaN();
    StepResult result{loss, {{loss_name(stage_.losses[0].kind), loss}}, {}, 0.001, 0.002};
    if (stage_.layer_wise()) result.layers = {{loss_name(stage_.losses[0].kind), {loss / 2, std::numeric_limits<double>::quiet_NaN(), 1.0 / 3}}};
    return result;
  }
  Status switch_teacher(const std::string& hash) override {
    RETORT_TRY(const std::string now, behaviour_.hash_of(stage_.switch_teacher.to));
    RETORT_RETURN_IF_ERROR(same_second_teacher(stage_, now, hash));
    switched_ = true;
    return {};
  }
  std::vector<Parameter> memory() override {
    if (start_.empty()) return {};
    return {{tensors_.back().name, tensors_.back().group, false, 0, start_, {}}};
  }

 private:
  std::vector<FakeTensor>& tensors_;
  const StageSpec& stage_;
  const FakeBehaviour& behaviour_;
  int64_t& steps_;
  bool switched_ = false;      // to the stage's second teacher
  std::vector<float> start_;   // of pairs: one tensor as it was when the stage began
};

class FakeBackend : public Backend {
 public:
  explicit FakeBackend(FakeBehaviour behaviour = {}) : behaviour_(std::move(behaviour)), config_(fake_config()) {}

  const ModelConfig& teacher() const override { return config_; }
  std::string teacher_hash() const override { return "00000000deadbeef"; }
  Result<std::string> check_second_teacher(const std::string& model, int) override { return behaviour_.hash_of(model); }

  Result<StartReport> start(const StudentSpec&, const CalibrationText& text, uint64_t seed) override {
    RETORT_TRY(const Batch batch, text(1, 16));
    if (behaviour_.on_start) behaviour_.on_start();
    make();
    for (auto& t : tensors_) {
      for (size_t i = 0; i < t.value.size(); ++i) t.value[i] = float((seed * 31 + i * 17 + size_t(batch.tokens[i % 16])) % 97) / 97.0f;
    }
    return StartReport{config_.plan, {"1.0"}, {{"seconds", 0.25}}};
  }
  // Less attention: what was there moves, and by what text is read.
  Result<StartReport> advance(const StudentSpec& spec, const CalibrationText& text, uint64_t seed) override {
    RETORT_TRY(const Batch batch, text(1, 16));
    for (auto& t : tensors_) {
      for (float& value : t.value) value += float((seed + size_t(batch.tokens[3]) + spec.keep.list.size()) % 13) / 13.0f;
    }
    return StartReport{config_.plan, {"advanced"}, {}};
  }
  Status restore(const StudentSpec&, const std::vector<LayerPlan>& plan) override {
    if (plan != config_.plan) return internal_error("another plan");
    make();
    return {};
  }
  std::vector<Parameter> tensors() override {
    std::vector<Parameter> out;
    for (auto& t : tensors_) out.push_back({t.name, t.group, false, 0, t.value, {}});
    return out;
  }
  Result<std::unique_ptr<StageRunner>> make_stage(const StageSpec& stage) override {
    return std::unique_ptr<StageRunner>(new FakeRunner(tensors_, stage, behaviour_, steps_));
  }
  Result<std::vector<float>> token_losses(const Batch& batch, bool) override { return std::vector<float>(batch.tokens.size(), 1.0f); }
  Result<std::vector<HeadMatrices>> head_matrices(const Batch& batch) override {
    HeadMatrices seen;
    seen.mixer = "slots", seen.distance = double(batch.tokens[0]);
    seen.teacher = seen.student = {1, {1}};
    return std::vector<HeadMatrices>{seen};
  }
  std::string library() const override { return "fake 1"; }
  Status write_student(const std::string& folder, const nlohmann::json& provenance) override {
    RETORT_TRY(auto out, AtomicFolder::create(folder));
    std::string bytes;
    for (const auto& t : tensors_) bytes.append(reinterpret_cast<const char*>(t.value.data()), t.value.size() * sizeof(float));
    RETORT_RETURN_IF_ERROR(write_text_file(out.path() + "/weights.bin", bytes));
    RETORT_RETURN_IF_ERROR(write_text_file(out.path() + "/config.json", provenance.dump(1)));
    return out.commit();
  }

 private:
  void make() {
    tensors_.clear();
    const auto add = [&](const char* name, TrainGroup group, size_t size) {
      tensors_.push_back({name, group, std::vector<float>(size), std::vector<float>(size)});
    };
    add("model.layers.0.mixer.q_proj.weight", TrainGroup::kProjection, 70000);  // more than one chunk of the optimiser
    add("model.layers.0.mixer.write.weight", TrainGroup::kFeature, 100);
    add("model.layers.1.mixer.join.gate.bias", TrainGroup::kGate, 13);
    add("model.layers.1.mlp.up_proj.weight", TrainGroup::kProjection, 65);
  }

  FakeBehaviour behaviour_;
  ModelConfig config_;
  std::vector<FakeTensor> tensors_;
  int64_t steps_ = 0;
};

}  // namespace retort::train::fake
