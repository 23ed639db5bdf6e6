// retort perplexity MODEL --text FILE: see eval/perplexity.h for the definition.
#include "eval/copy_recall.h"

#include <cstdio>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/text_input.h"

namespace retort::cli {
namespace {

// Token ids as decimal numbers between spaces, commas or brackets: `retort tokenize --json` and plain lists both read.
Result<std::vector<int>> read_ids(const std::string& path) {
  RETORT_TRY(const std::string text, read_text_input(path));
  const std::string name = input_name(path);
  std::vector<int> ids;
  int64_t value = -1;
  for (size_t i = 0; i <= text.size(); ++i) {
    const char c = i < text.size() ? text[i] : ' ';
    if (c >= '0' && c <= '9') {
      value = std::max<int64_t>(value, 0) * 10 + (c - '0');
      if (value > 1 << 30) return invalid(name, ": byte ", i, ": a token id above ", 1 << 30);
    } else if (std::string_view(" \t\r\n,[]").find(c) == std::string_view::npos) {
      return invalid(name, ": byte ", i, ": expected token ids between spaces or commas");
    } else if (value >= 0) {
      ids.push_back(int(value));
      value = -1;
    }
  }
  return ids;
}

class Perplexity : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_.path);
    add_runtime_flags(app, model_);
    app.add_option("--text,-f,--file", text_, "UTF-8 text to score, or - for standard input");
    app.add_option("--ids", ids_, "token ids to score instead of a text, or - for standard input");
    app.add_option("-c,--ctx-size", options_.context, "tokens per window")->check(CLI::Range(2, 1 << 24))->capture_default_str();
    app.add_option("--limit-tokens", limit_, "score only the first N tokens of the text")->check(CLI::Range(2, 1 << 30));
    app.add_option("-b,--batch-size", options_.batch_rows, "tokens in one pass")->check(CLI::Range(1, 1 << 16))->capture_default_str();
    app.add_flag("--copy-recall", copy_recall_, "score the second copies of passages that stand twice in the context");
    app.add_option("--passages", copy_.passages, "with --copy-recall: how many")->check(CLI::Range(1, 1 << 20))->capture_default_str();
    app.add_option("--passage-length", copy_.length, "with --copy-recall: tokens of each")
        ->check(CLI::Range(1, 1 << 20))->capture_default_str();
    app.add_option("--dump-logits", dump_, "write every logits row as raw f32 [tokens, vocabulary] to this file");
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    if (text_.empty() == ids_.empty()) return invalid("perplexity: give either --text FILE or --ids FILE");
    RETORT_TRY(OpenedModel opened, open_for_running(model_, context));
    RETORT_TRY(std::vector<int> tokens, read_tokens(opened.files));
    const std::string file = input_name(text_.empty() ? ids_ : text_);
    if (tokens.size() < 2) return invalid(file, ": ", tokens.size(), " tokens; at least 2 are needed");
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= 0 && tokens[i] < opened.files.config.vocab_size) continue;
      return invalid(file, ": token ", i + 1, " is ", tokens[i], ", outside the vocabulary of ", opened.files.config.vocab_size);
    }
    if (limit_ > 0 && int64_t(tokens.size()) > limit_) tokens.resize(size_t(limit_));
    if (copy_recall_) {
      if (!dump_.empty()) return invalid("perplexity: --dump-logits does not go with --copy-recall");
      tokens = repeated_passages(tokens, copy_);
      if (tokens.empty()) return invalid("perplexity: the text is shorter than a passage of ", copy_.length, " tokens");
      options_.context = 2 * copy_.length;
      options_.score_from = copy_.length;
    }
    if (!dump_.empty()) options_.batch_rows = options_.context;  // rows in the order of the text
    warn_past_context(opened.files.config, std::min(options_.context, int64_t(tokens.size())));
    catch_interrupts();
    Engine engine(opened.model, *opened.pool, opened.engine);
    RETORT_TRY(const PerplexityResult result, score(engine, tokens));
    report(context, opened, result);
    return {};
  }

 private:
  Result<std::vector<int>> read_tokens(const ModelFiles& files) {
    if (!ids_.empty()) return read_ids(ids_);
    RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(files));
    RETORT_TRY(const std::string text, read_text_input(text_));
    auto ids = tokenizer.encode(text, {.add_special = false, .parse_special = false});
    if (!ids.ok()) return invalid(input_name(text_), ": ", ids.error().message);
    return std::vector<int>(ids->begin(), ids->end());
  }

  Result<PerplexityResult> score(Engine& engine, const std::vector<int>& tokens) {
    const int64_t windows = int64_t(tokens.size() + options_.context - 1) / options_.context;
    Progress progress("perplexity", windows);
    const auto show = [&](int64_t done, const PerplexityResult& so_far) {
      progress.update(done, cat("ppl ", format_fixed(so_far.perplexity(), 4), "  ",
                                format_significant(double(so_far.tokens) / so_far.seconds, 3), " tok/s"));
    };
    if (dump_.empty()) return perplexity(engine, tokens, options_, show);
    const uint64_t expected = uint64_t(tokens.size()) * engine.model().config().vocab_size * sizeof(float);
    RETORT_TRY(AtomicFile file, AtomicFile::create(dump_, expected));
    Status written;
    RETORT_TRY(PerplexityResult result, perplexity(engine, tokens, options_, show, [&](int64_t, int64_t, std::span<const float> row) {
      if (written.ok()) written = file.write(std::as_bytes(row));
    }));
    RETORT_RETURN_IF_ERROR(written);
    RETORT_RETURN_IF_ERROR(file.commit());
    return result;
  }

  void report(const Context& context, const OpenedModel& opened, const PerplexityResult& r) const {
    if (!context.json) {
      std::printf("perplexity %.4f  (nll %.6f per token, %s tokens scored in %s windows of %lld, %s)\n", r.perplexity(), r.mean(),
                  format_count(r.scored).c_str(), format_count(r.windows).c_str(), static_cast<long long>(options_.context),
                  format_duration(r.seconds).c_str());
      return;
    }
    nlohmann::ordered_json out;
    out["model"] = model_.path;
    out["weights"] = model_.weights;
    out["identity"] = opened.model->identity();
    out["text"] = text_.empty() ? ids_ : text_;
    out["context"] = options_.context;
    out["copy_recall"] = copy_recall_;
    out["tokens"] = r.tokens;
    out["scored"] = r.scored;
    out["windows"] = r.windows;
    out["nll"] = r.mean();
    out["perplexity"] = r.perplexity();
    out["seconds"] = r.seconds;
    out["tokens_per_second"] = r.seconds > 0 ? double(r.tokens) / r.seconds : 0.0;
    print_json(out);
  }

  ModelFlags model_;
  std::string text_, ids_, dump_;
  int64_t limit_ = 0;
  PerplexityOptions options_;
  bool copy_recall_ = false;
  CopyRecallOptions copy_;
};

}  // namespace

std::unique_ptr<Command> make_perplexity() { return std::make_unique<Perplexity>(); }

}  // namespace retort::cli
