// retort eval MODEL --tasks NAMES: benchmarks as lm-evaluation-harness runs them, from local data files (docs/evaluation.md).
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/flags.h"
#include "cli/judge/judge.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "cli/report/comparison_page.h"
#include "eval/tasks/comparison.h"
#include "eval/tasks/results.h"
#include "eval/tasks/results_files.h"

namespace retort::cli {
namespace {

using harness::Json;
using harness::TaskRun;
using Clock = std::chrono::system_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// One model's answers to all tasks.
struct ModelRun {
  std::vector<TaskRun> tasks;
  Json results;
};

class Eval : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_.path);
    add_runtime_flags(app, model_);
    app.add_option("--tasks", tasks_, "names, separated by commas; `list` prints what there is")->delimiter(',')->allow_extra_args(false);
    app.add_option("--data", data_, "folder of the data files: TASK_SPLIT.jsonl, .jsonl.gz or .jsonl.zst")->capture_default_str();
    app.add_option("--num-fewshot", options_.examples, "examples in front of every document")->check(CLI::Range(0, 1000))
        ->capture_default_str();
    app.add_option("--fewshot-split", options_.examples_split, "draw them from this split instead of the task's own");
    app.add_option("--limit", options_.limit, "only the first N documents of every task; below 1 a share of them")
        ->check(CLI::Range(0.0, 1e9));
    app.add_option("--add-bos", add_bos_, "special tokens in front of a prompt: auto (as the tokenizer does), yes, no")
        ->check(CLI::IsMember({"auto", "yes", "no"}))->capture_default_str();
    app.add_option("--max-length", max_length_, "tokens that the model sees at most; 0: what it was made for, 2048 if unknown")
        ->check(CLI::Range(0, 1 << 24));
    app.add_option("-b,--batch-size", options_.scoring.pass_rows, "tokens in one pass")->check(CLI::Range(1, 1 << 16))
        ->capture_default_str();
    app.add_option("--compare", teacher_, "a second model, the teacher: both, and their ratio");
    app.add_option("--out", out_, "write results_DATE.json into a folder of the model's name in this one");
    app.add_flag("--log-samples", log_samples_, "with --out: every document's prompts and scores too");
    app.add_option("--html", html_, "with --compare: also write a page with bars");
    add_judge_flags(app, judge_);
  }

  Status run(const Context& context) override {
    if (tasks_ == std::vector<std::string>{"list"}) return list(context);
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    if (tasks_.empty()) return invalid("eval: --tasks is missing; `retort eval --tasks list` prints what there is");
    RETORT_TRY(const auto judges, judge_tasks_among(tasks_));
    if (!judges.empty()) {
      if (!teacher_.empty()) return invalid("eval: --compare has nothing to compare: ", judges.front().name, " writes answers, not scores");
      if (!html_.empty() || log_samples_ || options_.examples > 0) {
        return invalid("eval: ", judges.front().name, " writes answers: ", !html_.empty() ? "--html" : log_samples_ ? "--log-samples" : "--num-fewshot", " does not go with it");
      }
      judge_.data = data_, judge_.out = out_, judge_.limit = options_.limit;
      return run_judge_tasks(judges, model_, judge_, context);
    }
    if (!html_.empty() && teacher_.empty()) return invalid("eval: --html draws two models beside each other: --compare is missing");
    if (log_samples_ && out_.empty()) return invalid("eval: --log-samples writes into the folder of --out, which is missing");
    RETORT_TRY(const std::vector<TaskRun> prepared, prepare());
    RETORT_RETURN_IF_ERROR(check_writing());
    // What would be wrong with either model's ids after the scoring is found before it.
    RETORT_TRY(auto ids, encode(model_.path, prepared, context));
    Encoded teachers_ids;
    if (!teacher_.empty()) {
      RETORT_TRY(teachers_ids, encode(teacher_, prepared, context));
    }
    catch_interrupts();
    RETORT_TRY(const ModelRun student, run_model(model_.path, prepared, std::move(ids), context));
    if (teacher_.empty()) return report(student, context);
    RETORT_TRY(const ModelRun teacher, run_model(teacher_, prepared, std::move(teachers_ids), context));
    return report_comparison(student, teacher, context);
  }

 private:
  Status list(const Context& context) const {
    Json names = Json::array();
    Table table({"task", "metrics; data on the Hugging Face hub"});
    for (const auto& task : harness::task_names()) {
      names.push_back(task.name);
      table.row({task.name, task.summary});
    }
    for (const auto& task : judge_tasks()) {
      names.push_back(task.name);
      table.row({task.name, task.summary});
    }
    if (context.json) print_json({{"tasks", names}});
    else table.print();
    return {};
  }

  Result<std::vector<TaskRun>> prepare() const {
    RETORT_TRY(const auto tasks, harness::find_tasks(tasks_));
    harness::DataFolder data(data_);
    std::vector<TaskRun> out;
    for (const auto& task : tasks) {
      RETORT_TRY(TaskRun run, harness::prepare_task(task, data, options_));
      out.push_back(std::move(run));
    }
    return out;
  }

  // What would be wrong after the scoring is found before it.
  Status check_writing() const {
    RETORT_RETURN_IF_ERROR(check_can_write(html_));
    if (out_.empty()) return {};
    std::error_code error;
    std::filesystem::create_directories(out_, error);
    return error ? Status(io_error("--out ", out_, ": ", error.message())) : Status();
  }

  // Of every task, by the model's tokenizer.
  using Encoded = std::vector<harness::EncodedTask>;
  Result<Encoded> encode(const std::string& path, const std::vector<TaskRun>& prepared, const Context& context) const {
    RETORT_TRY(const ModelFiles files, open_model(path));
    RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(files));
    const harness::RequestEncoder encoder(tokenizer, {add_bos(), max_length(files.config)});
    ThreadPool pool(context.threads);
    Encoded out;
    for (const TaskRun& run : prepared) {
      RETORT_TRY(out.emplace_back(), harness::encode_task(run, encoder, pool));
    }
    return out;
  }

  int64_t max_length(const ModelConfig& config) const {
    return max_length_ > 0 ? max_length_ : config.context_length > 0 ? config.context_length : 2048;
  }

  Result<ModelRun> run_model(const std::string& path, const std::vector<TaskRun>& prepared, const Encoded ids, const Context& context) const {
    const auto started = Clock::now();
    ModelFlags flags = model_;
    flags.path = path;
    RETORT_TRY(OpenedText opened, open_with_tokenizer(flags, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    Engine engine(opened.model, *opened.pool, opened.engine);
    ModelRun out;
    out.tasks = prepared;
    RETORT_RETURN_IF_ERROR(score(out.tasks, ids, engine));
    harness::RunFacts facts;
    facts.model = path;
    facts.model_arguments = cat("pretrained=", path, ",weights=", flags.weights, ",activations=", flags.activations);
    facts.add_bos = add_bos_;
    facts.device = context.device;
    facts.limit = options_.limit;
    facts.batch_rows = options_.scoring.pass_rows;
    facts.max_length = max_length(opened.files.config);
    facts.started = std::chrono::duration<double>(started.time_since_epoch()).count();
    facts.seconds = seconds_since(started);
    out.results = harness::results_json(out.tasks, facts, tokenizer);
    if (!out_.empty()) RETORT_RETURN_IF_ERROR(harness::write_results(out_, out.results, out.tasks, log_samples_));
    return out;
  }

  harness::AddBos add_bos() const {
    return add_bos_ == "yes" ? harness::AddBos::kYes : add_bos_ == "no" ? harness::AddBos::kNo : harness::AddBos::kAuto;
  }

  Status score(std::vector<TaskRun>& runs, const Encoded& ids, Engine& engine) const {
    int64_t total = 0, before = 0, rows_before = 0;
    for (const TaskRun& run : runs) total += int64_t(run.documents.size());
    Progress progress("eval", total);
    const auto started = Clock::now();
    for (size_t t = 0; t < runs.size(); ++t) {
      TaskRun& run = runs[t];
      const auto show = [&](int64_t done) {
        const double rate = double(rows_before + run.work.rows_read) / seconds_since(started);
        progress.update(before + done, cat(run.task.name, "  ", format_significant(rate, 3), " tok/s"));
      };
      RETORT_RETURN_IF_ERROR(harness::score_task(run, engine, ids[t], options_, show));
      before += int64_t(run.documents.size());
      rows_before += run.work.rows_read;
    }
    progress.finish();
    return {};
  }

  std::string settings(const std::string& model) const {
    return cat("retort (", model, "), limit: ", options_.limit > 0 ? cat(options_.limit) : "None",
               ", num_fewshot: ", options_.examples, ", add_bos: ", add_bos_, ", weights: ", model_.weights);
  }

  Status report(const ModelRun& run, const Context& context) const {
    if (context.json) {
      print_json(run.results);
      return {};
    }
    std::printf("%s\n%s", settings(model_.path).c_str(), harness::results_table(run.results, "results").c_str());
    if (run.results.contains("groups")) std::printf("\n%s", harness::results_table(run.results, "groups").c_str());
    int64_t read = 0, asked = 0;
    for (const TaskRun& task : run.tasks) read += task.work.rows_read, asked += task.work.rows_asked;
    std::printf("\n%s tokens read; %s, had every choice been read by itself\n", format_count(read).c_str(), format_count(asked).c_str());
    return {};
  }

  Status report_comparison(const ModelRun& student, const ModelRun& teacher, const Context& context) const {
    const auto rows = harness::compare(student.tasks, teacher.tasks);
    if (!html_.empty()) {
      const auto names = short_names({model_.path, teacher_});
      RETORT_RETURN_IF_ERROR(write_text_file(html_, comparison_page(names[0], names[1], settings(model_.path), rows)));
    }
    if (context.json) {
      print_json({{"student", student.results}, {"teacher", teacher.results}, {"comparison", comparison_json(rows)}});
      return {};
    }
    std::printf("%s\nteacher: %s\n\n%s", settings(model_.path).c_str(), teacher_.c_str(), table_text(comparison_table(rows)).c_str());
    if (!html_.empty()) std::printf("\npage: %s\n", html_.c_str());
    return {};
  }

  ModelFlags model_;
  std::vector<std::string> tasks_;
  std::string data_ = "data/eval", add_bos_ = "auto", teacher_, out_, html_;
  harness::EvaluationOptions options_;
  int64_t max_length_ = 0;
  bool log_samples_ = false;
  JudgeOptions judge_;
};

}  // namespace

std::unique_ptr<Command> make_eval() { return std::make_unique<Eval>(); }

}  // namespace retort::cli
