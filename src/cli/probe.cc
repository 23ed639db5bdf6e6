// retort probe MODEL [MODEL2 ...]: recall probes and perplexity by position, models side by side (docs/evaluation.md).
#include <algorithm>
#include <cstdio>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/timing.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/report/probe_page.h"
#include "io/corpus.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostText = size_t(4) << 20;

// Documents of a .txt or .jsonl, packed or not, until there is more than anybody asks for.
Result<std::string> read_text(const std::string& path) {
  RETORT_TRY(CorpusReader reader, CorpusReader::open(path));
  std::string out;
  while (out.size() < kMostText) {
    RETORT_TRY(const auto document, reader.next());
    if (!document) break;
    out += (out.empty() ? "" : "\n\n") + document->text;
  }
  return out;
}

class Probe : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, models_);
    add_runtime_flags(app, flags_);
    std::string names;
    for (const auto& task : probes::tasks()) {
      names += (names.empty() ? "" : ",") + std::string(task.name);
      tasks_.push_back(task.name);
    }
    app.add_option("--tasks", tasks_, cat("names, separated by commas: ", names, "; `list` says what they are"))->delimiter(',')->allow_extra_args(false);
    app.add_option("--lengths", lengths_, "tokens of a context and its answer, separated by commas")
        ->delimiter(',')->allow_extra_args(false)->check(CLI::Range(8, 1 << 24))->capture_default_str();
    app.add_option("--pairs", pairs_, "key-value pairs in a context of mqar and needle, separated by commas")
        ->delimiter(',')->allow_extra_args(false)->check(CLI::Range(1, 1 << 16))->capture_default_str();
    app.add_option("--examples", examples_, "contexts of every task, length and number of pairs")
        ->check(CLI::Range(1, 1 << 20))->capture_default_str();
    app.add_option("--text", text_, "text to hide things in, to copy, and for perplexity by position: .txt or .jsonl, packed or not");
    app.add_option("--windows", windows_, "with --text: windows of the greatest length for perplexity by position; 0: none")
        ->check(CLI::Range(0, 1 << 20))->capture_default_str();
    app.add_option("-b,--batch-size", scoring_.pass_rows, "tokens in one pass")->check(CLI::Range(1, 1 << 16))->capture_default_str();
    app.add_option("--html", html_, "also write a page with curves");
  }

  Status run(const Context& context) override {
    if (tasks_ == std::vector<std::string>{"list"}) return list(context);
    RETORT_RETURN_IF_ERROR(require_model(models_));
    const uint64_t seed = context.seed.value_or(kSeed);
    RETORT_RETURN_IF_ERROR(check_can_write(html_));
    RETORT_RETURN_IF_ERROR(prepare(seed));
    catch_interrupts();
    for (size_t m = 0; m < models_.size(); ++m) RETORT_RETURN_IF_ERROR(measure(m, context));
    results_.settings = {{"examples", examples_}, {"seed", seed}, {"weights", flags_.weights}, {"activations", flags_.activations},
                         {"text", text_.empty() ? "made up" : text_}, {"paths", models_}};
    if (!html_.empty()) RETORT_RETURN_IF_ERROR(write_text_file(html_, probe_page(results_)));
    if (context.json) print_json(probe_json(results_));
    else print();
    return {};
  }

 private:
  static constexpr uint64_t kSeed = 1234;  // the same examples for whoever asks, unless another seed is wanted

  static Status list(const Context& context) {
    Json names = Json::array();
    Table table({"task", "what is asked for"});
    for (const auto& task : probes::tasks()) {
      names.push_back(task.name);
      table.row({task.name, task.summary});
    }
    if (context.json) print_json({{"tasks", names}});
    else table.print();
    return {};
  }

  // Everything that can be wrong with the models' tokenizers and the examples is found before a model runs.
  Status prepare(uint64_t seed) {
    results_.models = short_names(models_);
    std::optional<Tokenizer> tokenizer;
    for (const auto& path : models_) {
      RETORT_TRY(const ModelFiles files, open_model(path));
      RETORT_TRY(const Tokenizer own, open_tokenizer(files));
      if (!tokenizer) tokenizer = own;
      if (own.fingerprint() != tokenizer->fingerprint()) {
        return invalid(path, ": its tokenizer is not that of ", models_.front(), "; models side by side read the same tokens");
      }
      warn_past_context(files.config, *std::max_element(lengths_.begin(), lengths_.end()));
    }
    std::string text;
    if (!text_.empty()) {
      RETORT_TRY(text, read_text(text_));
    }
    auto made = probes::Source::make(*tokenizer, text, seed);
    if (!made.ok()) return invalid(text_, ": ", made.error().message);
    const auto& source = *made;
    drop_repeats(lengths_);
    drop_repeats(pairs_);
    for (size_t t = 0; t < tasks_.size(); ++t) {
      const std::string& name = tasks_[t];
      if (std::find(tasks_.begin(), tasks_.begin() + ptrdiff_t(t), name) != tasks_.begin() + ptrdiff_t(t)) continue;  // once
      RETORT_TRY(const probes::Task* task, probes::find_task(name));
      RETORT_RETURN_IF_ERROR(add_task(source, *task));
    }
    if (results_.cells.empty() && !left_out_.empty()) return left_out_.back();  // of the greatest length
    for (const Error& error : left_out_) std::fprintf(stderr, "retort: warning: %s; left out\n", error.message.c_str());
    return text.empty() || windows_ == 0 ? Status() : cut_windows(*tokenizer, text);
  }

  // The same cell twice would be the same numbers twice.
  static void drop_repeats(std::vector<int64_t>& values) {
    std::vector<int64_t> kept;
    for (const int64_t value : values) {
      if (std::find(kept.begin(), kept.end(), value) == kept.end()) kept.push_back(value);
    }
    values = std::move(kept);
  }

  // A grid has cells that cannot be: sixteen needles take more than 256 tokens. Those are left out aloud; no other cell at all is an error.
  Status add_task(const probes::Source& source, const probes::Task& task) {
    for (const auto& cell : probes::cells_of(task, lengths_, pairs_)) {
      if (const Status added = add_cell(source, cell); !added.ok()) left_out_.push_back(added.error());
    }
    return {};
  }

  Status add_cell(const probes::Source& source, const probes::Cell& cell) {
    RETORT_TRY(auto made, probes::make_examples(source, cell, examples_));
    int64_t pairs = 0, tokens = 0;
    for (const auto& example : made) pairs += example.pairs, tokens = std::max(tokens, example.tokens());
    const int64_t count = int64_t(made.size());
    results_.cells.push_back({cell, (pairs + count / 2) / count, tokens, {}});
    prepared_.push_back(std::move(made));
    return {};
  }

  Status cut_windows(const Tokenizer& tokenizer, const std::string& text) {
    const int64_t length = *std::max_element(lengths_.begin(), lengths_.end());
    auto ids = tokenizer.encode(text, {.add_special = false, .parse_special = false});
    if (!ids.ok()) return invalid(text_, ": ", ids.error().message);
    const int64_t whole = std::min(windows_, int64_t(ids->size()) / length);
    if (whole < 1) return invalid(text_, ": ", ids->size(), " tokens; a window of perplexity by position takes ", length, " (--windows 0: none)");
    position_tokens_.assign(ids->begin(), ids->begin() + whole * length);
    position_length_ = length;
    results_.windows = whole;
    if (whole < windows_) std::fprintf(stderr, "retort: warning: %s has text for %lld of %lld windows\n", text_.c_str(), static_cast<long long>(whole), static_cast<long long>(windows_));
    return {};
  }

  Status measure(size_t m, const Context& context) {
    ModelFlags flags = flags_;
    flags.path = models_[m];
    RETORT_TRY(OpenedModel opened, open_for_running(flags, context));
    Engine engine(opened.model, *opened.pool, opened.engine);
    Progress progress("probe", int64_t(prepared_.size()) + !position_tokens_.empty());
    const auto started = Clock::now();
    int64_t rows = 0;
    for (size_t c = 0; c < prepared_.size(); ++c) {
      const auto& cell = results_.cells[c].cell;
      progress.update(int64_t(c), cat(results_.models[m], "  ", cell.task, " @ ", cell.length, "  ",
                                      format_significant(double(rows) / std::max(1e-9, seconds_since(started)), 3), " tok/s"));
      RETORT_TRY(auto score, probes::score(engine, prepared_[c], scoring_));
      rows += score.work.rows_read;
      read_ += score.work.rows_read;
      asked_ += score.work.rows_asked;
      results_.cells[c].scores.push_back(std::move(score));
    }
    if (!position_tokens_.empty()) {
      progress.update(int64_t(prepared_.size()), cat(results_.models[m], "  perplexity by position"));
      RETORT_TRY(auto bins, position_perplexity(engine, position_tokens_, position_length_, scoring_.pass_rows));
      results_.positions.push_back(std::move(bins));
    }
    progress.finish();
    return {};
  }

  void print() const {
    if (!results_.cells.empty()) {
      std::printf("accuracy: answers that greedy decoding writes exactly, %lld context%s each\n", static_cast<long long>(examples_), examples_ == 1 ? "" : "s");
      std::fputs(table_text(probe_table(results_)).c_str(), stdout);
      std::printf("\nlog-likelihood of the answer, per token\n");
      std::fputs(table_text(probe_likelihood_table(results_)).c_str(), stdout);
    }
    if (!results_.positions.empty()) {
      std::printf("\nperplexity by position, %lld windows of %lld tokens\n", static_cast<long long>(results_.windows), static_cast<long long>(position_length_));
      std::fputs(table_text(position_table(results_)).c_str(), stdout);
    }
    std::printf("\n%s tokens read; %s, had every question been read by itself\n", format_count(read_).c_str(), format_count(asked_).c_str());
    if (!html_.empty()) std::printf("page: %s\n", html_.c_str());
  }

  std::vector<std::string> models_, tasks_;
  ModelFlags flags_;
  std::vector<int64_t> lengths_ = {256, 512, 1024, 2048}, pairs_ = {4, 8, 16};
  int64_t examples_ = 8, windows_ = 8;
  std::string text_, html_;
  ContinuationOptions scoring_;
  ProbeResults results_;
  std::vector<Error> left_out_;
  std::vector<std::vector<probes::Example>> prepared_;  // one list a cell
  std::vector<int> position_tokens_;
  int64_t position_length_ = 0, read_ = 0, asked_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_probe() { return std::make_unique<Probe>(); }

}  // namespace retort::cli
