#include "cli/distill/plan.h"

#include <algorithm>
#include <filesystem>

#include "base/mapped_file.h"
#include "base/suggest.h"
#include "cli/open_model.h"
#include "io/yaml_fields.h"

namespace retort::cli {
namespace {

constexpr double kFullMeasureMinutes = 8;  // plans that train for less are measured on less
constexpr size_t kLargestPlan = size_t{1} << 20;
constexpr std::string_view kEach = "$each";
constexpr std::string_view kEvaluate = "evaluate.";

// A list of counts.
void read_counts(YamlSource& source, YamlFields& fields, const char* name, int64_t least, std::vector<int64_t>& value) {
  std::vector<std::string> texts;
  fields.texts(name, texts);
  if (texts.empty()) return;
  value.clear();
  for (const auto& text : texts) {
    int64_t count = 0;
    if (!parse_count(text, count) || count < least) {
      return source.fail(fields.take(name), fields.key_of(name), "'", name, "' has '", text, "'; expected whole numbers of at least ", least);
    }
    value.push_back(count);
  }
}

template <class Parse>
void read_format(YamlSource& source, YamlFields& fields, const char* name, std::string& value, const Parse& parse) {
  if (!fields.has(name)) return;
  fields.text(name, value);
  if (const auto parsed = parse(value); !parsed.ok()) {
    source.fail(fields.take(name), fields.key_of(name), "'", name, "': ", parsed.error().message);
  }
}

// What the section does not say stays.
void read_evaluation(YamlSource& source, const YAML::Node& node, EvaluationPlan& e) {
  YamlFields fields(source, node, "evaluate", "evaluate");
  read_counts(source, fields, "windows", 2, e.windows);
  fields.count("tokens", e.tokens, 2);
  fields.count("window_tokens", e.window_tokens, 2);
  fields.count("copy_passages", e.copy_passages, 1);
  fields.count("copy_length", e.copy_length, 2);
  read_counts(source, fields, "contexts", 1, e.contexts);
  fields.count("decode_tokens", e.decode_tokens, 1, 4096);
  fields.count("decode_turns", e.decode_turns, 1, 4096);
  read_format(source, fields, "weights", e.weights, parse_weight_format);
  read_format(source, fields, "activations", e.activations, parse_activations);
  read_format(source, fields, "speed_weights", e.speed_weights, parse_weight_format);
  fields.text("prompt", e.prompt);
  fields.count("sample_tokens", e.sample_tokens, 0);
  fields.finish();
}

// `value` wherever a text says $each.
void fill_in(PlannedRun& run, const std::string& value) {
  std::vector<std::string*> texts = {&run.name, &run.recipe, &run.start, &run.init, &run.keep_of};
  for (auto& change : run.set) texts.push_back(&change);
  for (auto* text : texts) {
    for (size_t at = 0; (at = text->find(kEach, at)) != std::string::npos; at += value.size()) text->replace(at, kEach.size(), value);
  }
}

// `each`: the value of for_each that this run is made for.
PlannedRun read_run(YamlSource& source, const YAML::Node& node, const std::string& folder, const std::vector<PlannedRun>& before,
                    const std::string& each) {
  PlannedRun run;
  YamlFields fields(source, node, "runs", "run");
  fields.text("name", run.name);
  fields.text("recipe", run.recipe);
  fields.text("start", run.start);
  fields.text("init", run.init);
  fields.text("keep_of", run.keep_of);
  fields.texts("set", run.set);
  fields.number("minutes", run.minutes, 0, 1e6);
  fields.flag("show", run.show);
  fields.take("for_each");
  fields.finish();
  fill_in(run, each);
  const bool clean = !run.name.empty() && run.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == std::string::npos;
  if (!clean) source.fail(node, "runs", "a run needs a 'name' of letters, digits, '-' and '_'");
  if (run.recipe.empty()) source.fail(node, "runs", "run '", run.name, "' needs a 'recipe', a file");
  std::vector<std::string> names;
  for (const auto& other : before) names.push_back(other.name);
  if (std::find(names.begin(), names.end(), run.name) != names.end()) source.fail(node, "runs", "two runs are called '", run.name, "'");
  if (!run.start.empty() && std::find(names.begin(), names.end(), start_run(run)) == names.end()) {
    source.fail(fields.take("start"), "runs", "run '", run.name, "' starts from '", run.start, "', which is no run before it", suggestion(start_run(run), names));
  }
  if (!run.keep_of.empty() && std::find(names.begin(), names.end(), run.keep_of) == names.end()) {
    source.fail(fields.take("keep_of"), "runs", "run '", run.name, "' keeps what '", run.keep_of, "' keeps, which is no run before it", suggestion(run.keep_of, names));
  }
  run.recipe = (std::filesystem::path(folder) / run.recipe).string();
  return run;
}

// What an entry of `runs` is repeated for: itself once, with nothing to fill in, when it has no for_each.
std::vector<std::string> read_for_each(YamlSource& source, const YAML::Node& node) {
  if (!node.IsMap() || !node["for_each"].IsDefined()) return {std::string(kEach)};
  std::vector<std::string> values;
  YamlFields(source, node, "runs", "run").texts("for_each", values);
  if (values.empty()) source.fail(node["for_each"], "runs", "'for_each' is an empty list");
  return values;
}

Result<Plan> read_plan(const std::string& text, const std::string& path) {
  const YAML::Node root = YAML::Load(text);
  if (!root.IsMap()) return invalid(path, ":1: a plan is a mapping with 'name', 'runs' and 'evaluate'");
  YamlSource source{path, {}, {}};
  Plan plan;
  plan.path = path;
  YamlFields fields(source, root, "", "plan");
  fields.text("name", plan.name);
  const YAML::Node runs = fields.take("runs"), evaluate = fields.take("evaluate");
  fields.finish();
  if (!runs.IsDefined() || !runs.IsSequence() || runs.size() == 0) source.fail(root, "runs", "a plan needs 'runs', a list");
  if (!source.status.ok()) return source.status.error();
  const std::string folder = std::filesystem::path(path).parent_path().string();
  for (const auto& node : runs) {
    for (const auto& each : read_for_each(source, node)) {
      plan.runs.push_back(read_run(source, node, folder, plan.runs, each));
      if (!source.status.ok()) return source.status.error();
    }
    if (!source.status.ok()) return source.status.error();
  }
  if (evaluate.IsDefined()) read_evaluation(source, evaluate, plan.evaluate);
  if (!source.status.ok()) return source.status.error();
  return plan;
}

}  // namespace

bool is_plan(const std::string& path) {
  const auto text = read_text_file(path, kLargestPlan);
  if (!text.ok()) return false;
  try {
    const YAML::Node root = YAML::Load(*text);
    return root.IsMap() && root["runs"].IsDefined();
  } catch (const YAML::Exception&) {
    return false;
  }
}

Result<Plan> parse_plan(const std::string& text, const std::string& path) {
  try {
    return read_plan(text, path);
  } catch (const YAML::Exception& error) {
    return invalid(path, ":", error.mark.line + 1, ": not YAML: ", error.msg);
  }
}

Result<Plan> load_plan(const std::string& path) {
  RETORT_TRY(const auto text, read_text_file(path, kLargestPlan));
  return parse_plan(text, path);
}

Status set_in_plan(Plan& plan, const std::vector<std::string>& changes) {
  YAML::Node section(YAML::NodeType::Map);
  YamlSource source{plan.path, {}, {}};
  for (const auto& change : changes) {
    if (change.rfind(kEvaluate, 0) != 0) {
      for (auto& run : plan.runs) run.set.push_back(change);
      continue;
    }
    const std::string flag = "--set " + change;
    const auto equals = change.find('=');
    if (equals == std::string::npos) return invalid(flag, ": expected ", kEvaluate, "key=value");
    try {
      section[change.substr(kEvaluate.size(), equals - kEvaluate.size())] = YAML::Load(change.substr(equals + 1));
    } catch (const YAML::Exception& error) {
      return invalid(flag, ": the value is not YAML: ", error.msg);
    }
    source.overridden.emplace_back(change.substr(0, equals), flag);
  }
  read_evaluation(source, section, plan.evaluate);
  return source.status;
}

Status scale_plan(Plan& plan, double minutes) {
  double sum = 0;
  for (const auto& run : plan.runs) sum += run.minutes;
  if (!(minutes > 0)) return invalid("--minutes ", minutes, ": expected a number above 0");
  if (sum <= 0) return invalid("--minutes: no run of ", plan.path, " has minutes");
  for (auto& run : plan.runs) run.minutes *= minutes / sum;
  if (minutes >= kFullMeasureMinutes) return {};
  auto& e = plan.evaluate;
  const auto less = [&](int64_t count, int64_t least) { return std::max(std::min(count, least), int64_t(double(count) * minutes / kFullMeasureMinutes)); };
  e.tokens = less(e.tokens, 1024);
  e.window_tokens = less(e.window_tokens, 1024);
  e.copy_passages = less(e.copy_passages, 2);
  e.sample_tokens = less(e.sample_tokens, 16);
  for (auto* list : {&e.windows, &e.contexts}) {  // long contexts are the dear ones
    if (minutes < 3 && list->size() > 1) list->erase(std::remove_if(list->begin() + 1, list->end(), [](int64_t n) { return n > 2048; }), list->end());
  }
  return {};
}

}  // namespace retort::cli
