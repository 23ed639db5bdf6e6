#include "cli/judge/judge.h"

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "cli/answering/answering.h"
#include "cli/answering/progress_file.h"
#include "cli/output.h"

namespace retort::cli {
namespace {

using harness::Json;

constexpr uint64_t kSeed = 0;  // FastChat's

// A task with its questions read: what can be wrong with the files is found before a model runs.
struct Prepared {
  JudgeTask task;
  std::vector<JudgeQuestion> questions;
  std::string digest;  // of the question file
};

Result<Prepared> prepare(const JudgeTask& task, const JudgeOptions& options) {
  const std::string path = (std::filesystem::path(options.data) / task.file).string();
  auto content = read_text_file(path);
  if (!content.ok()) return invalid(task.name, ": ", content.error().message, "; --data is the folder that has ", task.file);
  RETORT_TRY(auto questions, read_questions(task, *content, path));
  const double most = options.limit < 1 ? std::ceil(options.limit * double(questions.size())) : options.limit;
  if (options.limit > 0 && double(questions.size()) > most) questions.resize(size_t(most));
  return Prepared{task, std::move(questions), sha256_hex(*content)};
}

Status make_folder(const std::string& file) {
  std::error_code error;
  const auto folder = std::filesystem::path(file).parent_path();
  std::filesystem::create_directories(folder, error);
  return error ? Status(io_error(folder.string(), ": ", error.message())) : Status();
}

Result<Json> answer(const Prepared& prepared, const OpenedModel& opened, const Tokenizer& tokenizer, const ModelFlags& model,
                    const JudgeOptions& options, uint64_t seed) {
  const JudgeTask& task = prepared.task;
  AnsweringOptions answering;
  answering.parallel = options.parallel;
  answering.max_tokens = options.max_tokens > 0 ? options.max_tokens : task.default_max_tokens;
  answering.seed = seed;
  answering.strip = true;
  answering.sampling = [&](size_t q) {
    return SamplingOptions{options.temperature.value_or(temperature_of(task, prepared.questions[q])), 50, 1.0, 0.0};
  };
  std::vector<Conversation> conversations;
  for (const JudgeQuestion& question : prepared.questions) conversations.push_back(conversation(question));
  const std::string path = answer_path(task, options.out, options.model_id);
  RETORT_RETURN_IF_ERROR(make_folder(path));
  const Json settings = {{"model_id", options.model_id}, {"identity", opened.model->identity()}, {"weights", model.weights},
                         {"activations", model.activations}, {"questions", prepared.digest}, {"max_tokens", answering.max_tokens},
                         {"seed", seed}, {"temperature", options.temperature ? Json(*options.temperature) : Json()}};
  RETORT_TRY(ProgressFile partial, ProgressFile::open(path + ".partial", settings));
  const size_t before = partial.answers().size();
  std::vector<size_t> todo;
  for (size_t q = 0; q < prepared.questions.size(); ++q) {
    if (!partial.answers().contains(q)) todo.push_back(q);
  }
  Progress progress(task.name, int64_t(todo.size()));
  AnsweringWork work;
  int64_t done = 0;
  RETORT_RETURN_IF_ERROR(answer_all(opened, tokenizer, conversations, todo, answering, work, [&](size_t q, const Answer& made) {
    progress.update(++done, cat(work.made_tokens, " tokens made"));
    return partial.add(q, answer_json(task, prepared.questions[q], made, options.model_id));
  }));
  progress.finish();
  std::vector<Json> answers;
  for (size_t q = 0; q < prepared.questions.size(); ++q) answers.push_back(partial.answers().at(q));
  RETORT_RETURN_IF_ERROR(write_text_file(path, answer_file(task, answers)));
  partial.remove();
  return Json{{"task", task.name}, {"file", path}, {"answers", answers.size()}, {"resumed", before}, {"prompt_tokens", work.prompt_tokens},
              {"cached_tokens", work.cached_tokens}, {"made_tokens", work.made_tokens}};
}

Result<Json> answer_for_judges(const std::vector<JudgeTask>& tasks, const ModelFlags& model, const JudgeOptions& options,
                               const Context& context) {
  if (options.out.empty()) return invalid("eval: the answers for judges need a folder: --out is missing");
  if (options.model_id.empty() || options.model_id.find_first_of("/\\\n") != std::string::npos || options.model_id[0] == '.') {
    return invalid("eval: --model-id '", options.model_id, "' is no file's name");
  }
  std::vector<Prepared> prepared;
  for (const JudgeTask& task : tasks) {
    RETORT_TRY(auto one, prepare(task, options));
    prepared.push_back(std::move(one));
  }
  RETORT_TRY(const OpenedText opened, open_with_tokenizer(model, context));
  const Tokenizer& tokenizer = opened.tokenizer;
  catch_interrupts();
  Json out = Json::array();
  for (const Prepared& one : prepared) {
    RETORT_TRY(Json result, answer(one, opened, tokenizer, model, options, context.seed.value_or(kSeed)));
    out.push_back(std::move(result));
  }
  return out;
}

}  // namespace

void add_judge_flags(CLI::App& app, JudgeOptions& options) {
  app.add_option("--model-id", options.model_id, "mt_bench, alpaca_eval: what the answers call the model (default: its file's name)");
  app.add_option("-n,--n-predict", options.max_tokens, "mt_bench, alpaca_eval: tokens per answer at most (default: 1024, 2048)")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--temp,--temperature", options.temperature, "mt_bench, alpaca_eval: instead of the benchmark's own")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--parallel", options.parallel, "mt_bench, alpaca_eval: conversations at a time (-np)")->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

Result<std::vector<JudgeTask>> judge_tasks_among(const std::vector<std::string>& names) {
  std::vector<JudgeTask> out;
  for (const auto& name : names) {
    if (const JudgeTask* task = find_judge_task(name)) out.push_back(*task);
  }
  if (out.empty() || out.size() == names.size()) return out;
  return invalid("eval: ", out.front().name, " writes answers for a judge; run it without the tasks that are scored here");
}

Status run_judge_tasks(const std::vector<JudgeTask>& tasks, const ModelFlags& model, const JudgeOptions& options, const Context& context) {
  JudgeOptions named = options;
  if (named.model_id.empty()) named.model_id = short_names({model.path}).front();
  RETORT_TRY(const Json written, answer_for_judges(tasks, model, named, context));
  if (context.json) {
    print_json({{"model", model.path}, {"model_id", named.model_id}, {"answers", written}});
    return {};
  }
  for (const Json& one : written) {
    std::printf("%s: %lld answers in %s\n", one["task"].get<std::string>().c_str(), one["answers"].get<long long>(),
                one["file"].get<std::string>().c_str());
  }
  return {};
}

}  // namespace retort::cli
