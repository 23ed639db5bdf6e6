#include "eval/tasks/results.h"

#include <charconv>

#include "base/sha256.h"
#include "eval/tasks/examples.h"

namespace retort::harness {
namespace {

constexpr const char* kNoError = "N/A";

Json json_of(const std::optional<double>& error) { return error ? Json(*error) : Json(kNoError); }

const char* output_type(Kind kind) {
  switch (kind) {
    case Kind::kChoices: return "multiple_choice";
    case Kind::kLastWord: return "loglikelihood";
    case Kind::kRolling: return "loglikelihood_rolling";
  }
  return "";
}

Json config_of(const TaskRun& run) {
  const Task& task = run.task;
  const std::string source = task.source;
  const size_t space = source.find(' ');
  Json out = {{"task", task.name}, {"dataset_path", source.substr(0, space)}};
  if (space != std::string::npos) out["dataset_name"] = source.substr(space + 1);
  const std::pair<const char*, const char*> splits[] = {{"training_split", task.train}, {"validation_split", task.validation},
                                                        {"test_split", task.test}, {"fewshot_split", task.examples_split}};
  for (const auto& [key, split] : splits) {
    if (split) out[key] = split;
  }
  out["description"] = task.description;
  out["target_delimiter"] = " ";
  out["fewshot_delimiter"] = "\n\n";
  out["num_fewshot"] = run.examples;
  out["metric_list"] = Json::array();
  for (const Metric& metric : task.metrics) out["metric_list"].push_back({{"metric", metric.name}, {"higher_is_better", metric.higher_is_better}});
  out["output_type"] = output_type(task.kind);
  out["metadata"] = {{"version", Json::parse(task.version)}};
  return out;
}

Json metrics_of(const TaskRun& run) {
  Json out = {{"name", run.task.name}, {"alias", run.task.alias.empty() ? run.task.name : run.task.alias},
              {"sample_len", run.documents.size()}};
  for (size_t m = 0; m < run.estimates.size(); ++m) {
    out[cat(run.task.metrics[m].name, ",none")] = run.estimates[m].value;
    out[cat(run.task.metrics[m].name, "_stderr,none")] = json_of(run.estimates[m].error);
  }
  return out;
}

void add_groups(std::span<const TaskRun> runs, Json& out) {
  std::vector<Task> tasks;
  for (const TaskRun& run : runs) tasks.push_back(run.task);
  for (const Group& group : groups_of(tasks)) {
    std::vector<Part> parts;
    int64_t documents = 0;
    size_t examples = 0;
    for (const TaskRun& run : runs) {
      if (!belongs_to(run.task, group)) continue;
      parts.push_back({run.estimates[0], int64_t(run.documents.size())});
      documents += parts.back().size;
      examples = run.examples;
      if (run.task.group == group.name) out["group_subtasks"][group.name].push_back(run.task.name);
    }
    if (!group.parent.empty()) out["group_subtasks"][group.parent].push_back(group.name);
    const Estimate total = pooled(parts);
    out["results"][group.name] = {{"alias", group.alias}, {"name", group.name}, {"sample_len", documents}, {"acc,none", total.value},
                                  {"acc_stderr,none", json_of(total.error)}, {"sample_count", {{"acc,none", documents}}}};
    out["groups"][group.name] = out["results"][group.name];
    out["versions"][group.name] = Json::parse(group.version);
    if (group.parent.empty()) continue;  // the harness goes from the top down, so that a group of groups finds nothing to take these from
    out["n-shot"][group.name] = examples;
    out["higher_is_better"][group.name] = {{"acc", true}};
  }
}

Json token_json(const Tokenizer& tokenizer, int id) {
  if (id < 0) return {nullptr, "None"};
  return {tokenizer.token_text(id), cat(id)};
}

std::string shortest(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

}  // namespace

std::string sanitized(const std::string& model) {
  std::string out;
  bool replaced = false;
  for (const char c : model) {
    const bool bad = std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos;
    if (!bad) out += c;
    else if (!replaced) out += "__";
    replaced = bad;
  }
  return out;
}

Json results_json(std::span<const TaskRun> runs, const RunFacts& facts, const Tokenizer& tokenizer) {
  Json out = {{"results", Json::object()}};
  for (const char* key : {"group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"}) out[key] = Json::object();
  Json hashes = Json::object();
  for (const TaskRun& run : runs) {
    const std::string& name = run.task.name;
    out["results"][name] = metrics_of(run);
    out["configs"][name] = config_of(run);
    out["versions"][name] = Json::parse(run.task.version);
    out["n-shot"][name] = run.examples;
    for (const Metric& metric : run.task.metrics) out["higher_is_better"][name][metric.name] = metric.higher_is_better;
    out["n-samples"][name] = {{"original", run.documents_in_split}, {"effective", run.documents.size()}};
    std::string all;
    for (const ScoredDocument& one : run.documents) all += one.document_hash + one.prompt_hash + one.target_hash;
    hashes[name] = sha256_hex(all);
  }
  add_groups(runs, out);
  out["config"] = {{"model", "retort"}, {"model_args", facts.model_arguments}, {"batch_size", facts.batch_rows}, {"device", facts.device},
                   {"limit", facts.limit > 0 ? Json(facts.limit) : Json()}, {"bootstrap_iters", kBootstrapRounds}, {"add_bos", facts.add_bos},
                   {"fewshot_seed", ExampleSampler::kSeed}};
  out["date"] = facts.started;
  out["tokenizer_pad_token"] = token_json(tokenizer, tokenizer.pad_id());
  out["tokenizer_eos_token"] = token_json(tokenizer, tokenizer.eos_id());
  out["tokenizer_bos_token"] = token_json(tokenizer, tokenizer.bos_id());
  out["eot_token_id"] = tokenizer.eos_id() < 0 ? Json() : Json(tokenizer.eos_id());
  out["max_length"] = facts.max_length;
  out["task_hashes"] = std::move(hashes);
  out["model_source"] = "retort";
  out["model_name"] = facts.model;
  out["model_name_sanitized"] = sanitized(facts.model);
  for (const char* key : {"system_instruction", "system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha"}) {
    out[key] = nullptr;
  }
  out["total_evaluation_time_seconds"] = shortest(facts.seconds);
  return out;
}

Json sample_json(const TaskRun& run, size_t document) {
  const ScoredDocument& one = run.documents[document];
  Json out = {{"doc_id", document}, {"doc", one.document.row}, {"target", one.document.target}, {"arguments", Json::object()}};
  Json answers = Json::array();  // as text: the harness writes them so
  for (size_t r = 0; r < one.requests.size(); ++r) {
    Json& arguments = out["arguments"][cat("gen_args_", r)];
    const std::string value = shortest(one.scores[r].log_likelihood);
    if (run.task.kind == Kind::kRolling) {
      arguments = {{"arg_0", one.requests[r].continuation}};
      answers.push_back(value);
    } else {
      arguments = {{"arg_0", one.requests[r].context}, {"arg_1", one.requests[r].continuation}};
      answers.push_back(Json::array({value, one.scores[r].greedy ? "True" : "False"}));
    }
  }
  out["resps"] = Json::array();
  for (const Json& answer : answers) out["resps"].push_back(Json::array({answer}));
  out["filtered_resps"] = std::move(answers);
  out["filter"] = "none";
  out["metrics"] = Json::array();
  for (const Metric& metric : run.task.metrics) out["metrics"].push_back(metric.name);
  out["doc_hash"] = one.document_hash;
  out["prompt_hash"] = one.prompt_hash;
  out["target_hash"] = one.target_hash;
  for (size_t m = 0; m < one.samples.size(); ++m) {
    const Sample& sample = one.samples[m];
    out[run.task.metrics[m].name] = run.task.kind == Kind::kRolling ? Json::array({sample.value, sample.weight}) : Json(sample.value);
  }
  return out;
}

}  // namespace retort::harness
