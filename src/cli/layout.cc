// retort layout STUDENT --against TEACHER --keep N --text FILE: which attention layers or kv heads a hybrid should keep.
#include <cstdio>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/text_input.h"
#include "eval/divergence.h"
#include "eval/keep_ranking.h"
#include "model/layout.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;

class Layout : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, student_.path);
    add_runtime_flags(app, student_);
    app.add_option("--against", teacher_, "the teacher whose attention is put back");
    app.add_option("--rank", rank_, "what decides: kl (of the whole model's predictions), or error (of the layer's output; seconds)")
        ->check(CLI::IsMember({"kl", "error"}))->capture_default_str();
    app.add_option("--unit", unit_, "layers, or heads (kv heads)")->check(CLI::IsMember({"layers", "heads"}))->capture_default_str();
    app.add_option("--keep", keep_, "how many the layout keeps")->check(CLI::Range(1, 1 << 20));
    app.add_option("--text,-f,--file", text_, "text to measure on: .txt or .jsonl, packed or not; of the kind that the student is for");
    app.add_option("--limit-tokens", limit_, "tokens of it; --rank error takes at most 128")->check(CLI::Range(16, 1 << 24))->capture_default_str();
    app.add_option("-c,--ctx-size", window_, "tokens of a window")->check(CLI::Range(2, 1 << 20))->capture_default_str();
    app.add_option("-o,--out", out_, "write the layout, which `retort distill --layout` takes");
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(student_.path));
    if (teacher_.empty()) return invalid("layout: --against is missing: the teacher whose attention is put back");
    if (text_.empty()) return invalid("layout: --text is missing: what to measure on");
    if (keep_ == 0) return invalid("layout: --keep is missing: how many ", unit_, " the layout keeps");
    RETORT_RETURN_IF_ERROR(check_can_write(out_));
    RETORT_TRY(format_, parse_weight_format(student_.weights));
    RETORT_TRY(const ModelFiles student, open_model(student_.path));
    RETORT_TRY(opened_, open_for_running({teacher_, student_.weights, student_.activations}, context));
    const ModelFiles& teacher = opened_.files;
    RETORT_RETURN_IF_ERROR(check_comparable(teacher.config, student.config));
    const auto units = replaced_units(student.config, unit_ == "heads");
    if (int64_t(units.size()) <= keep_) return invalid("layout: --keep ", keep_, ": the student has ", units.size(), " ", unit_, " that are no attention");
    RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(teacher));
    RETORT_TRY(tokens_, corpus_tokens({text_}, tokenizer, rank_ == "error" ? std::min<int64_t>(limit_, kErrorTokens) : limit_, "--text"));
    catch_interrupts();
    engine_ = std::make_unique<Engine>(opened_.model, *opened_.pool, opened_.engine);
    base_ = std::make_unique<DivergenceBase>(*engine_, tokens_, window_);
    return rank(teacher, student, units, context);
  }

 private:
  static constexpr int64_t kErrorTokens = 128;

  Status rank(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& units, const Context& context) {
    RETORT_TRY(const double start, kl(student));
    std::vector<RankedUnit> ranking;
    if (rank_ == "kl") {
      RETORT_TRY(ranking, ranked(teacher, student, units, [&](int) { return start; }, [&](const ModelFiles& model, int) { return kl(model); }));
    } else {
      RETORT_TRY(ranking, by_error(teacher, student, units));
    }
    std::vector<AttentionUnit> kept, interleaved;
    for (int64_t i = 0; i < keep_; ++i) kept.push_back(ranking[size_t(i)].unit);
    Json document = {{"student", student_.path}, {"teacher", teacher_}, {"text", text_}, {"tokens", tokens_.size()}, {"window", window_}, {"rank", rank_},
                     {"unit", unit_}, {"keep", Json::array()}, {"kl", {{"student", start}}}};
    for (const auto& unit : kept) document["keep"].push_back(unit_name(unit));
    RETORT_TRY(document["kl"]["layout"], kl_of(teacher, student, kept));
    interleaved = interleaved_units(student.config);
    if (!interleaved.empty()) {
      RETORT_TRY(document["kl"]["interleaved"], kl_of(teacher, student, interleaved));
    }
    document["ranking"] = Json::array();
    for (const auto& one : ranking) document["ranking"].push_back({{"unit", unit_name(one.unit)}, {"gain", one.gain}});
    if (!out_.empty()) RETORT_RETURN_IF_ERROR(write_text_file(out_, document.dump(2) + "\n"));
    if (context.json) print_json(document);
    else print(document);
    return {};
  }

  Result<double> kl(const ModelFiles& files) {
    RETORT_TRY(auto model, Model::load(files, format_, *opened_.pool));
    Engine engine(std::move(model), *opened_.pool, opened_.engine);
    RETORT_TRY(const Divergence found, base_->compare(engine, [](int64_t) { return !interrupted(); }));
    return found.kl_mean;
  }
  Result<Json> kl_of(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& kept) {
    RETORT_TRY(const ModelFiles restored, restore_attention(teacher, student, kept));
    RETORT_TRY(const double found, kl(restored));
    return Json(found);
  }

  Result<std::vector<RankedUnit>> ranked(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& units,
                                         const std::function<double(int)>& before, const RankMeasure& measure) const {
    Progress progress("layout", int64_t(units.size()));
    RETORT_TRY(auto ranking, rank_units(teacher, student, units, before, measure, [&](int64_t done, const AttentionUnit& unit) {
                 progress.update(done, cat(unit.kv_head < 0 ? "layer " : "kv head ", unit_name(unit)));
                 return !interrupted();
               }));
    progress.finish();
    return ranking;
  }

  Result<std::vector<RankedUnit>> by_error(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& units) {
    RETORT_TRY(const LayerMatcher matcher, LayerMatcher::make(teacher, tokens_, *opened_.pool));
    const RankMeasure measure = [&](const ModelFiles& model, int layer) -> Result<double> {
      RETORT_TRY(const double error, matcher.output_error(model, layer));
      return error * error;
    };
    std::vector<double> before;
    for (int l = 0; l < student.config.layers; ++l) {
      RETORT_TRY(before.emplace_back(), measure(student, l));
    }
    return ranked(teacher, student, units, [&](int layer) { return before[size_t(layer)]; }, measure);
  }

  // Layers with as many kv heads as the layout keeps, evenly spread; none where they do not come out even or are attention already.
  std::vector<AttentionUnit> interleaved_units(const ModelConfig& student) const {
    const int64_t heads = unit_ == "heads" ? student.kv_heads : 1;
    if (keep_ % heads != 0 || int64_t(replaced_units(student, false).size()) != student.layers) return {};
    std::vector<AttentionUnit> out;
    for (const int layer : interleaved_layers(double(keep_ / heads) / student.layers, student.layers)) out.push_back({layer, -1});
    return out;
  }

  void print(const Json& document) const {
    Table table({unit_ == "heads" ? "layer.kv head" : "layer", rank_ == "kl" ? "KL gained" : "error gained", ""});
    int64_t row = 0;
    for (const auto& one : document["ranking"]) {
      table.row({one["unit"].get<std::string>(), format_significant(one["gain"].get<double>(), 3), row < keep_ ? "kept" : ""});
      if (++row >= keep_ + 4) break;
    }
    table.print();
    std::string keep;
    for (const auto& unit : document["keep"]) keep += (keep.empty() ? "" : ",") + unit.get<std::string>();
    const Json& kl = document["kl"];
    std::printf("\nKL to the teacher, nothing trained since: %s as it is, %s with these%s\n", format_fixed(kl["student"], 4).c_str(),
                format_fixed(kl["layout"], 4).c_str(),
                kl.contains("interleaved") ? cat(", ", format_fixed(kl["interleaved"], 4), " with as many evenly spread").c_str() : "");
    std::printf("--set student.keep=list:%s\n", keep.c_str());
    if (!out_.empty()) std::printf("%s: retort distill RECIPE --layout %s\n", out_.c_str(), out_.c_str());
  }

  ModelFlags student_;
  std::string teacher_, rank_ = "kl", unit_ = "layers", text_, out_;
  int64_t keep_ = 0, limit_ = 2048, window_ = 512;
  WeightFormat format_{};
  OpenedModel opened_;              // the teacher
  std::unique_ptr<Engine> engine_;  // on it
  std::vector<int> tokens_;
  std::unique_ptr<DivergenceBase> base_;
};

}  // namespace

std::unique_ptr<Command> make_layout() { return std::make_unique<Layout>(); }

}  // namespace retort::cli
