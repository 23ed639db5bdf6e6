// retort distill RECIPE: a recipe is handed to retort-train as it is; a plan of several runs is carried out here, where students can
// also be run and measured.
#include <cstdio>

#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "cli/command.h"
#include "cli/distill/child.h"
#include "cli/distill/orchestrate.h"
#include "cli/output.h"
#include "cli/report/html.h"
#include "cli/report/run_results.h"
#include "io/json_fields.h"

namespace retort::cli {
namespace {

class Distill : public Command {
 public:
  void add_flags(CLI::App& app) override {
    app.add_option("RECIPE", recipe_, "recipe or plan, such as recipes/align.yaml, recipes/quickstart.yaml");
    app.add_option("--teacher", options_.teacher, "the teacher: a Hugging Face folder or a .gguf file");
    app.add_option("--data", options_.data, "text, chats, pairs of answers: .jsonl, .txt; also .gz, .zst; several files")->expected(1, -1);
    app.add_option("--eval-data", eval_data_, "plans: NAME=FILE, another kind of text to measure on")->expected(1, -1);
    app.add_option("-o,--out", options_.out, "folder of the run");
    app.add_flag("--resume", options_.resume, "go on with the run in --out (plans always do)");
    app.add_flag("--overwrite", options_.overwrite, "remove the run in --out first");
    app.add_flag("--dry-run", dry_run_, "say what would run");
    for (auto& [name, value] : student_) app.add_option(name, value, cat("student.", name.substr(2)));
    app.add_option("--layout", layout_, "keep the attention that a file of `retort layout` names");
    app.add_option("--set", set_, "stage.key=value, student.key=value, key=value; plans: evaluate.key=value")->expected(1, -1);
    app.add_option("--minutes", minutes_, "scale the minutes of the stages to this sum");
  }

  Status run(const Context& context) override {
    if (recipe_.empty()) return invalid("distill: no recipe given, such as recipes/align.yaml");
    options_.out = without_trailing_slashes(options_.out);
    options_.teacher = without_trailing_slashes(options_.teacher);
    if (!layout_.empty()) RETORT_RETURN_IF_ERROR(read_layout());
    if (!is_plan(recipe_)) return hand_over(context);
    RETORT_TRY(auto plan, load_plan(recipe_));
    RETORT_RETURN_IF_ERROR(plan_flags());
    if (minutes_) RETORT_RETURN_IF_ERROR(scale_plan(plan, *minutes_));
    RETORT_RETURN_IF_ERROR(set_in_plan(plan, set_));
    options_.how_to_resume = cat("retort distill ", recipe_, " ... --resume");
    if (dry_run_) {
      print_description(describe_plan(plan, options_, context), context);
      return {};
    }
    catch_interrupts();
    RETORT_TRY(const auto results, carry_out(plan, options_, context));
    if (context.json) print_json(results);
    else RETORT_RETURN_IF_ERROR(print_table());
    return {};
  }

 private:
  // Becomes --keep.
  Status read_layout() {
    RETORT_TRY(const std::string text, read_text_file(layout_));
    RETORT_TRY(const auto document, parse_json_object(layout_, text));
    const auto keep = document.value("keep", nlohmann::json());
    std::string units;
    for (const auto& unit : keep.is_array() ? keep : nlohmann::json::array()) {
      if (!unit.is_string()) return invalid(layout_, ": 'keep' must be a list of texts such as \"7\" or \"18.2\"");
      units += (units.empty() ? "" : ",") + unit.get<std::string>();
    }
    if (units.empty()) return invalid(layout_, ": no layout: a JSON object with a list 'keep' is expected, as `retort layout --out` writes it");
    for (auto& [name, value] : student_) {
      if (name != "--keep") continue;
      if (value) return invalid("--layout and --keep exclude each other");
      value = "list:" + units;
    }
    return {};
  }

  // One document, or one command line a run.
  static void print_description(const nlohmann::ordered_json& description, const Context& context) {
    if (context.json) return print_json(description);
    for (const auto& run : description["runs"]) {
      std::string line;
      for (const auto& word : run["command"]) line += (line.empty() ? "" : " ") + word.get<std::string>();
      std::puts(line.c_str());
    }
  }

  Status plan_flags() {
    if (options_.resume && options_.overwrite) return invalid("--resume and --overwrite exclude each other");
    for (const auto& [name, value] : student_) {
      if (value) return invalid(name, ": ", recipe_, " has several students; change it there, or use a recipe of one run");
    }
    for (const auto& text : eval_data_) {
      const auto equals = text.find('=');
      const std::string name = text.substr(0, equals);
      const bool clean = !name.empty() && name.find_first_of("/. ") == std::string::npos;
      if (equals == std::string::npos || equals + 1 == text.size() || !clean) return invalid("--eval-data ", text, ": expected NAME=FILE");
      options_.eval_data.emplace_back(name, text.substr(equals + 1));
    }
    return {};
  }

  Status hand_over(const Context& context) const {
    if (!eval_data_.empty()) return invalid("--eval-data: only for plans of several runs; use retort perplexity on the student");
    RETORT_TRY(const auto program, train_program());
    std::vector<std::string> arguments = {"retort-train", "distill", recipe_};
    const auto add = [&](std::initializer_list<std::string> words) { arguments.insert(arguments.end(), words); };
    if (!options_.teacher.empty()) add({"--teacher", options_.teacher});
    if (!options_.data.empty()) {
      add({"--data"});
      arguments.insert(arguments.end(), options_.data.begin(), options_.data.end());
    }
    if (!options_.out.empty()) add({"--out", options_.out});
    if (options_.resume) add({"--resume"});
    if (options_.overwrite) add({"--overwrite"});
    if (dry_run_) add({"--dry-run"});
    for (const auto& [name, value] : student_) {
      if (value) add({name, *value});
    }
    for (const auto& change : set_) add({"--set", change});
    if (minutes_) add({"--minutes", cat(*minutes_)});
    if (context.json) add({"--json"});
    if (context.threads > 0) add({"--threads", cat(context.threads)});
    if (context.seed) add({"--seed", cat(*context.seed)});
    return become(program, arguments);
  }

  Status print_table() const {
    RETORT_TRY(const auto run, read_run(options_.out));
    const auto rows = summary_table(run);
    Table table(rows[0]);
    for (size_t r = 1; r < rows.size(); ++r) table.row(rows[r]);
    table.print();
    std::printf("\n%s/results.json has all numbers; retort report %s makes a page of them\n", options_.out.c_str(), options_.out.c_str());
    return {};
  }

  std::string recipe_, layout_;
  PlanOptions options_;
  std::vector<std::string> eval_data_, set_;
  std::vector<std::pair<std::string, std::optional<std::string>>> student_ = {
      {"--mixer", {}}, {"--window", {}}, {"--keep", {}}, {"--start", {}}};
  std::optional<double> minutes_;
  bool dry_run_ = false;
};

}  // namespace

std::unique_ptr<Command> make_distill() { return std::make_unique<Distill>(); }

}  // namespace retort::cli
