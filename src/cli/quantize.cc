// retort quantize MODEL --bits 4 --out m.gguf: matrices in blocks of 4 or 8 bits, rounded by what they are applied to on a text.
#include <cstdio>
#include <filesystem>

#include "base/format.h"
#include "base/interrupt.h"
#include "base/path.h"
#include "base/progress.h"
#include "base/timing.h"
#include "cli/command.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/text_input.h"
#include "eval/divergence.h"
#include "mixers/list.h"
#include "quantise/calibrate.h"
#include "quantise/quantise.h"

namespace retort::cli {
namespace {

struct QuantType {
  const char* name;
  int bits;
  TensorType type;
};
constexpr QuantType kTypes[] = {{"q4_1", 4, TensorType::kQ4_1}, {"q4_0", 4, TensorType::kQ4_0}, {"q8_0", 8, TensorType::kQ8_0}};

class Quantize : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_);
    app.add_option("--bits", bits_, "4 or 8")->check(CLI::IsMember({4, 8}))->capture_default_str();
    app.add_option("--type", type_, "blocks of 32 weights: q4_1 (4 bits, a step and an offset each), q4_0 (a step alone) or q8_0; default: by --bits");
    app.add_option("-o,--out", out_, "the .gguf file to write");
    app.add_option("--data", data_, "text to calibrate on, as much of every file: .txt or .jsonl, also .gz and .zst; without it weights are rounded to the nearest");
    app.add_option("--calibration-tokens", calibration_tokens_, "tokens of it to read")->check(CLI::Range(256, 1 << 24))->capture_default_str();
    app.add_option("--text,-f,--file", text_, "text that both models are compared on, as --data");
    app.add_option("-c,--ctx-size", window_, "tokens of a window, in calibration and comparison")->check(CLI::Range(2, 1 << 20))->capture_default_str();
    app.add_option("--limit-tokens", limit_, "tokens of --text to compare on")->check(CLI::Range(2, 1 << 30))->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_));
    RETORT_TRY(const QuantType type, parse_type());
    if (out_.empty()) return invalid("no --out: name the .gguf file to write");
    std::error_code failed;
    if (path_exists(out_) && std::filesystem::equivalent(out_, model_, failed)) return invalid("--out ", out_, " is the model itself; name another");
    RETORT_TRY(const OpenedText opened, open_with_tokenizer({model_}, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    std::vector<int> compared;
    if (!text_.empty()) {
      RETORT_TRY(compared, corpus_tokens({text_}, tokenizer, limit_, "--text"));
    }
    RETORT_TRY(const auto calibration, read_calibration(tokenizer));
    catch_interrupts();
    const auto started = Clock::now();
    Engine engine(opened.model, *opened.pool, opened.engine);
    std::shared_ptr<const RoundedWeights> rounded;
    if (type.bits == 4 && !calibration.empty()) {
      RETORT_TRY(rounded, round_layers(opened, type, calibration));
    } else if (type.bits == 4) {
      std::fprintf(stderr, "retort: warning: no --data to calibrate on: 4-bit weights are rounded to the nearest, which costs more perplexity\n");
    }
    RETORT_TRY(const QuantiseReport report, write(opened, tokenizer, type, rounded.get()));
    const double seconds = seconds_since(started);
    std::optional<Divergence> found;
    if (!compared.empty()) {
      RETORT_TRY(found, compare(context, engine, compared));
    }
    print(context, opened, type, report, seconds, found);
    return {};
  }

 private:
  Result<QuantType> parse_type() const {
    for (const QuantType& t : kTypes) {
      if (type_.empty() ? t.bits == bits_ : type_ == t.name) return t;
    }
    return invalid("--type ", type_, ": expected q4_1, q4_0 or q8_0");
  }

  // As much of every file, where they are long enough.
  Result<std::vector<int>> read_calibration(const Tokenizer& tokenizer) const {
    std::vector<int> out;
    for (size_t i = 0; i < data_.size(); ++i) {
      const int64_t share = (calibration_tokens_ - int64_t(out.size())) / int64_t(data_.size() - i);
      RETORT_TRY(const auto tokens, corpus_tokens({data_[i]}, tokenizer, share, "--data"));
      out.insert(out.end(), tokens.begin(), tokens.end());
    }
    return out;
  }

  Result<std::shared_ptr<const RoundedWeights>> round_layers(const OpenedModel& opened, const QuantType& type, const std::vector<int>& tokens) {
    Progress progress("calibrate (layers)", opened.files.config.layers);
    CalibrationOptions options{type.type, window_, [&](int layer) {
                                 progress.update(layer);
                                 return !interrupted();
                               }};
    RETORT_TRY(auto rounded, calibrate(opened.files, tokens, options, *opened.pool));
    progress.finish();
    return rounded;
  }

  Result<QuantiseReport> write(const OpenedModel& opened, const Tokenizer& tokenizer, const QuantType& type, const RoundedWeights* rounded) {
    std::unique_ptr<Progress> progress;
    QuantiseOptions options{type.type, rounded, tokenizer, [&](int64_t done, int64_t total, const std::string& name) {
                              if (!progress) progress = std::make_unique<Progress>("quantize", total);
                              progress->update(done, name);
                              return !interrupted();
                            }};
    RETORT_TRY(auto report, quantise_model(out_, opened.files, options, *opened.pool));
    if (progress) progress->finish();
    return report;
  }

  Result<Divergence> compare(const Context& context, Engine& base, const std::vector<int>& tokens) {
    RETORT_TRY(const OpenedModel written, open_for_running({out_}, context));
    Engine engine(written.model, *written.pool, written.engine);
    Progress progress("compare", int64_t(tokens.size()));
    RETORT_TRY(auto found, divergence(base, engine, tokens, window_, [&](int64_t done) {
                 progress.update(done);
                 return !interrupted();
               }));
    progress.finish();
    return found;
  }

  // Of the whole file, embeddings and what stays f32 included.
  static double bits_per_weight(const ModelConfig& config, int64_t bytes) {
    int64_t weights = 0;
    for (const TensorSpec& spec : model_tensors(config)) weights += spec.count();
    return 8 * double(bytes) / double(weights);
  }

  void print(const Context& context, const OpenedModel& opened, const QuantType& type, const QuantiseReport& report, double seconds,
             const std::optional<Divergence>& d) const {
    std::error_code failed;
    const auto bytes = int64_t(std::filesystem::file_size(out_, failed));
    if (context.json) {
      nlohmann::ordered_json out{{"out", out_}, {"type", type.name}, {"architecture", report.format}, {"bytes", bytes},
                                 {"calibrated_matrices", report.calibrated}, {"rounded_matrices", report.rounded},
                                 {"bits_per_weight", bits_per_weight(opened.files.config, bytes)},
                                 {"weight_bytes_before", opened.model->weight_bytes()}, {"seconds", seconds}};
      if (d) {
        out["comparison"] = {{"tokens", d->tokens}, {"window", window_}, {"perplexity_before", d->perplexity_base()}, {"perplexity", d->perplexity()},
                             {"kl_mean", d->kl_mean}, {"kl_999", d->kl_999}, {"kl_max", d->kl_largest}, {"same_top", d->same_top_share()}};
      }
      return print_json(out);
    }
    std::printf("%s: %s, %s, %.2f bits a weight, %lld matrices by their inputs, %lld to the nearest, %s\n", out_.c_str(), type.name,
                format_bytes(bytes).c_str(), bits_per_weight(opened.files.config, bytes),
                static_cast<long long>(report.calibrated), static_cast<long long>(report.rounded), format_duration(seconds).c_str());
    if (!d) return;
    std::printf("perplexity %.4f -> %.4f (%+.2f %%), KL %.5f mean, %.4f at 99.9 %%, %.3f most, same likeliest token %.2f %%  (%s tokens in windows of %lld)\n",
                d->perplexity_base(), d->perplexity(), 100 * (d->perplexity() / d->perplexity_base() - 1), d->kl_mean, d->kl_999, d->kl_largest,
                100 * d->same_top_share(), format_count(d->tokens).c_str(), static_cast<long long>(window_));
  }

  std::string model_, type_, out_, text_;
  std::vector<std::string> data_;
  int bits_ = 4;
  int64_t calibration_tokens_ = 16384, window_ = 2048, limit_ = 8192;
};

}  // namespace

std::unique_ptr<Command> make_quantize() { return std::make_unique<Quantize>(); }

}  // namespace retort::cli
