#include "train/train_main.h"

#include <algorithm>
#include <cstdlib>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <new>

#include <CLI/CLI.hpp>

#include "base/cpu.h"
#include "base/format.h"
#include "base/interrupt.h"
#include "base/path.h"
#include "base/suggest.h"
#include "base/threads.h"
#include "train/run.h"

namespace retort::train {
namespace {

struct Arguments {
  std::string recipe, teacher, out, device = "cpu";
  std::vector<std::string> data, set;
  std::optional<std::string> mixer, window, keep, start, seed;
  std::optional<double> minutes;
  bool resume = false, overwrite = false, dry_run = false, json = false;
  int threads = 0;
};

int report(const Error& error) {
  std::string line = error.message;
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::fflush(stdout);
  if (!line.empty()) std::fprintf(stderr, "retort: error: %s\n", line.c_str());   // empty: another rank says it
  switch (error.code) {
    case ErrorCode::kInvalidInput:
    case ErrorCode::kIo: return 2;
    case ErrorCode::kInterrupted: return 130;
    case ErrorCode::kInternal: break;
  }
  return 1;
}

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("RECIPE", a.recipe, "recipe file, such as recipes/align.yaml");
  app.add_option("--teacher", a.teacher, "the teacher: a Hugging Face folder or a .gguf file");
  app.add_option("--data", a.data, "text, chats, pairs of answers: .jsonl, .txt; also .gz, .zst; several files")->expected(1, -1);
  app.add_option("-o,--out", a.out, "folder of the run");
  app.add_flag("--resume", a.resume, "go on with the run in --out");
  app.add_flag("--overwrite", a.overwrite, "remove the run in --out first");
  app.add_flag("--dry-run", a.dry_run, "say what would run");
  app.add_option("--mixer", a.mixer, "student.mixer");
  app.add_option("--window", a.window, "student.window");
  app.add_option("--keep", a.keep, "student.keep: none, heads:12, layers:6, 0.25, list:7,18.2");
  app.add_option("--start", a.start, "student.start: teacher, or a student's folder");
  app.add_option("--set", a.set, "stage.key=value, student.key=value, key=value")->expected(1, -1);
  app.add_option("--minutes", a.minutes, "scale the stages' minutes to this sum");
  app.add_flag("--json", a.json, "print one JSON document on standard output");
  app.add_option("-t,--threads", a.threads, "threads; 0 means one per core")->check(CLI::Range(0, 4096));
  app.add_option("-s,--seed", a.seed, "random seed");
  app.add_option("--device", a.device, "cpu");
}

Result<std::vector<Override>> overrides(const Arguments& a) {
  std::vector<Override> out;
  const auto flag = [&](const char* name, const char* key, const std::optional<std::string>& value) {
    if (value) out.push_back({key, *value, cat(name, " ", *value)});
  };
  flag("--mixer", "student.mixer", a.mixer);  // first: what --set says of its fields comes after
  for (const auto& text : a.set) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) return invalid("--set ", text, ": expected stage.key=value, student.key=value or key=value");
    out.push_back({text.substr(0, equals), text.substr(equals + 1), "--set " + text});
  }
  flag("--window", "student.window", a.window);
  flag("--keep", "student.keep", a.keep);
  flag("--start", "student.start", a.start);
  flag("--seed", "seed", a.seed);
  return out;
}

Status scale_minutes(Recipe& recipe, double minutes) {
  double sum = 0;
  for (const auto& stage : recipe.stages) sum += stage.budget.minutes;
  if (!(minutes > 0)) return invalid("--minutes ", minutes, ": expected a number above 0");
  if (sum <= 0) return invalid("--minutes: no stage of ", recipe.path, " has a budget in minutes; use --set stage.tokens=...");
  for (auto& stage : recipe.stages) stage.budget.minutes *= minutes / sum;
  return {};
}

std::string resume_line(int argc, char** argv) {
  std::string out = "retort";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--resume" || argument == "--overwrite") continue;
    const bool plain = argument.find_first_of(" '\"$*;&|<>(){}") == std::string::npos;
    out += plain ? " " + argument : " '" + argument + "'";
  }
  const char* size = std::getenv("WORLD_SIZE");
  return out + " --resume" + (size && std::string(size) != "1" ? ", started by torchrun as this one was" : "");
}

void print_summary(const nlohmann::ordered_json& result, const std::string& out) {
  std::printf("%s/student: %s tokens in %s", out.c_str(), format_count(result.value("tokens_trained", int64_t{0})).c_str(),
              format_duration(result.value("seconds", 0.0)).c_str());
  if (const auto kept = result.find("kept"); kept != result.end() && !kept->empty()) std::printf("; attention kept: %s", kept->dump().c_str());
  std::printf("\ntry it: retort generate %s/student -p \"Once upon a time\"\n", out.c_str());
}

// The recipe as the flags make it.
Result<Recipe> read_recipe(Arguments& a) {
  if (a.recipe.empty()) return invalid("distill: no recipe given, such as recipes/align.yaml");
  a.out = without_trailing_slashes(a.out);
  a.teacher = without_trailing_slashes(a.teacher);
  if (a.device != "cpu") return invalid("--device ", a.device, ": this build trains on the cpu");
  if (a.resume && a.overwrite) return invalid("--resume and --overwrite exclude each other");
  RETORT_TRY(const auto changes, overrides(a));
  RETORT_TRY(auto recipe, load_recipe(a.recipe, changes));
  recipe.data.train.insert(recipe.data.train.end(), a.data.begin(), a.data.end());
  if (a.minutes) RETORT_RETURN_IF_ERROR(scale_minutes(recipe, *a.minutes));
  if (a.teacher.empty()) return invalid("distill: no teacher given: --teacher MODEL");
  return recipe;
}

Status distill(Arguments a, const Status& understood, const std::string& how_to_resume) {
  RETORT_TRY(const auto group, join_process_group());
  RETORT_RETURN_IF_ERROR(agree(*group, understood));   // a flag that one rank alone has wrong ends all of them
  const auto recipe = read_recipe(a);
  RETORT_RETURN_IF_ERROR(agree(*group, recipe));
  // Ranks on one machine share its processors.
  const int threads = a.threads > 0 || group->alone() ? a.threads : std::max(1, usable_processors() / group->on_this_machine());
  const RunOptions options{a.teacher, a.out, a.resume, a.overwrite, threads, how_to_resume, group.get()};
  if (a.dry_run) {
    RETORT_TRY(const auto description, describe_run(*recipe, options, {open_backend, open_encoders}));
    if (group->leads()) std::fputs((a.json ? description.dump(2) + "\n" : description_text(description)).c_str(), stdout);
    return {};
  }
  catch_interrupts();
  RETORT_TRY(const auto result, run_recipe(*recipe, options, {open_backend, open_encoders}));
  if (!group->leads()) return {};
  if (a.json) std::puts(result.dump(2).c_str());
  else print_summary(result, a.out);
  return {};
}

Error unknown_argument(const CLI::App& app, const std::string& fallback) {
  std::vector<std::string> known;
  for (const auto* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) known.push_back("--" + name);
  }
  const auto rest = app.remaining();
  for (const auto& argument : rest) {
    if (argument.size() > 1 && argument[0] == '-') return invalid("distill: unknown flag '", argument, "'", suggestion(argument, known));
  }
  if (!rest.empty()) return invalid("distill: unexpected argument '", rest.front(), "'");
  return invalid("distill: ", fallback);
}

Status dispatch(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command != "distill") return invalid("retort-train: unknown command '", command, "'; known: distill");
  Arguments arguments;
  Status understood;
  CLI::App app("turn a teacher into a recurrent student, by a recipe", "retort distill");
  app.allow_extras();
  add_flags(app, arguments);
  try {
    app.parse(std::vector<std::string>(std::reverse_iterator(argv + argc), std::reverse_iterator(argv + 2)));
    if (app.remaining_size() > 0) understood = unknown_argument(app, "");
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return {};
  } catch (const CLI::ParseError& error) {
    understood = unknown_argument(app, error.what());
  }
  if (const auto isa = isa_from_environment(); understood.ok() && !isa.ok()) understood = isa.error();
  return distill(std::move(arguments), understood, resume_line(argc, argv));
}

}  // namespace

int train_main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error like a full disk
  try {
    const auto status = dispatch(argc, argv);
    if (!status.ok()) return report(status.error());
    return std::fflush(stdout) == 0 ? 0 : report(io_error("cannot write to standard output"));
  } catch (const std::bad_alloc&) {
    return report(io_error("out of memory"));
  } catch (const std::exception& error) {
    return report(internal_error("unexpected: ", error.what()));
  }
}

}  // namespace retort::train
