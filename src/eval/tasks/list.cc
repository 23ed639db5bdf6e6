// Every task, once. Adding one: its row's reader in formats.cc, its line in the table.
#include <algorithm>
#include <array>

#include "base/suggest.h"
#include "eval/tasks/formats.h"
#include "eval/tasks/task.h"

namespace retort::harness {
namespace {

constexpr Metric kAcc = {"acc", Metric::Value::kBestChoice, Metric::Mean::kMean, true};
constexpr Metric kAccNorm = {"acc_norm", Metric::Value::kBestChoicePerCharacter, Metric::Mean::kMean, true};
constexpr Metric kTrueMass = {"acc", Metric::Value::kTrueMass, Metric::Mean::kMean, true};
constexpr Metric kGreedy = {"acc", Metric::Value::kGreedy, Metric::Mean::kMean, true};
constexpr Metric kPerplexity = {"perplexity", Metric::Value::kLogLikelihood, Metric::Mean::kPerplexity, false};
constexpr Metric kWordPerplexity = {"word_perplexity", Metric::Value::kPerWord, Metric::Mean::kWeightedPerplexity, false};
constexpr Metric kBytePerplexity = {"byte_perplexity", Metric::Value::kPerByte, Metric::Mean::kWeightedPerplexity, false};
constexpr Metric kBitsPerByte = {"bits_per_byte", Metric::Value::kPerByte, Metric::Mean::kBitsPerByte, false};

const std::vector<Task>& table() {
  using enum Kind;
  // name, kind, file, source, train, validation, test, reader, metrics, version
  static const std::vector<Task> tasks = {
      {"arc_easy", kChoices, "arc_easy", "allenai/ai2_arc ARC-Easy", "train", "validation", "test", read_arc, {kAcc, kAccNorm}, "1.0"},
      {"arc_challenge", kChoices, "arc_challenge", "allenai/ai2_arc ARC-Challenge", "train", "validation", "test", read_arc,
       {kAcc, kAccNorm}, "1.0"},
      {"hellaswag", kChoices, "hellaswag", "Rowan/hellaswag", "train", "validation", nullptr, read_hellaswag, {kAcc, kAccNorm}, "1.0"},
      {"piqa", kChoices, "piqa", "baber/piqa", "train", "validation", nullptr, read_piqa, {kAcc, kAccNorm}, "1.0"},
      {"winogrande", kChoices, "winogrande_xl", "allenai/winogrande winogrande_xl", "train", "validation", nullptr, read_winogrande,
       {kAcc}, "1.0"},
      {"lambada_openai", kLastWord, "lambada_openai", "EleutherAI/lambada_openai default", nullptr, nullptr, "test", read_lambada,
       {kPerplexity, kGreedy}, "1.0"},
      {"lambada_standard", kLastWord, "lambada_standard", "cimec/lambada", nullptr, "validation", "test", read_lambada,
       {kPerplexity, kGreedy}, "1.0"},
      {"mmlu", kChoices, "mmlu", "cais/mmlu all", nullptr, nullptr, "test", read_mmlu, {kAcc}, "1.0", "dev", true},
      {"openbookqa", kChoices, "openbookqa_main", "allenai/openbookqa main", "train", "validation", "test", read_openbookqa,
       {kAcc, kAccNorm}, "1.0"},
      {"race", kChoices, "race_high", "EleutherAI/race high", nullptr, nullptr, "test", read_race, {kAcc}, "3.0"},
      {"truthfulqa_mc1", kChoices, "truthfulqa_mc", "truthfulqa/truthful_qa multiple_choice", nullptr, "validation", nullptr,
       read_truthfulqa_mc1, {kAcc}, "2.0", nullptr, false, true},
      {"truthfulqa_mc2", kChoices, "truthfulqa_mc", "truthfulqa/truthful_qa multiple_choice", nullptr, "validation", nullptr,
       read_truthfulqa_mc2, {kTrueMass}, "3.0", nullptr, false, true},
      {"pubmedqa", kChoices, "pubmedqa", "bigbio/pubmed_qa pubmed_qa_labeled_fold0_source", "train", "validation", "test",
       read_pubmedqa, {kAcc}, "1.0"},
      {"wikitext", kRolling, "wikitext", "EleutherAI/wikitext_document_level wikitext-2-raw-v1", "train", "validation", "test",
       read_wikitext, {kWordPerplexity, kBytePerplexity, kBitsPerByte}, "2.0", nullptr, false, true},
  };
  return tasks;
}

// MMLU's subjects and where they belong.
constexpr const char* kMmluVersion = "\"2\"";
struct SubjectGroup {
  const char* name;
  const char* alias;
  std::vector<const char*> subjects;
};
const std::array<SubjectGroup, 4>& subject_groups() {
  static const std::array<SubjectGroup, 4> groups = {{
      {"humanities", "humanities",
       {"formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history", "international_law",
        "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy", "prehistory", "professional_law",
        "world_religions"}},
      {"other", "other",
       {"business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging", "management", "marketing",
        "medical_genetics", "miscellaneous", "nutrition", "professional_accounting", "professional_medicine", "virology"}},
      {"social_sciences", "social sciences",
       {"econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
        "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology", "public_relations",
        "security_studies", "sociology", "us_foreign_policy"}},
      {"stem", "stem",
       {"abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
        "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
        "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
        "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning"}},
  }};
  return groups;
}

std::string spaced(std::string subject) {
  std::replace(subject.begin(), subject.end(), '_', ' ');
  return subject;
}

Task subject_task(const Task& mmlu, const SubjectGroup& group, const std::string& subject) {
  Task out = mmlu;
  out.name = "mmlu_" + subject;
  out.alias = subject;
  out.subject = subject;
  out.group = cat("mmlu_", group.name);
  out.description = "The following are multiple choice questions (with answers) about " + spaced(subject) + ".\n\n";
  return out;
}

// The tasks that one name stands for; none when there is no such name. A subject asked for by itself counts into no group.
std::vector<Task> members(const std::string& name) {
  std::vector<Task> out;
  for (const Task& task : table()) {
    if (task.name != "mmlu") {
      if (task.name == name) out.push_back(task);
      continue;
    }
    for (const SubjectGroup& group : subject_groups()) {
      for (const char* subject : group.subjects) {
        Task one = subject_task(task, group, subject);
        if (name != task.name && name != one.name) continue;
        if (name == one.name) one.group.clear();
        out.push_back(std::move(one));
      }
    }
  }
  return out;
}

}  // namespace

std::vector<TaskName> task_names() {
  std::vector<TaskName> out;
  for (const Task& task : table()) {
    std::string metrics;
    for (const Metric& metric : task.metrics) metrics += (metrics.empty() ? "" : ", ") + std::string(metric.name);
    out.push_back({task.name, cat(metrics, "; ", task.source, ", split ", task.evaluated_split())});
  }
  return out;
}

Result<std::vector<Task>> find_tasks(const std::vector<std::string>& names) {
  std::vector<Task> out;
  for (const auto& name : names) {
    auto found = members(name);
    if (found.empty()) {
      std::vector<std::string> known;
      for (const auto& task : task_names()) known.push_back(task.name);
      return invalid("unknown task '", name, "'", suggestion(name, known));
    }
    for (Task& task : found) {
      const auto known = std::find_if(out.begin(), out.end(), [&](const Task& one) { return one.name == task.name; });
      if (known == out.end()) out.push_back(std::move(task));
      else if (known->group.empty()) known->group = task.group;
    }
  }
  return out;
}

std::vector<Group> groups_of(const std::vector<Task>& tasks) {
  std::vector<Group> out;
  for (const SubjectGroup& group : subject_groups()) {
    const std::string name = cat("mmlu_", group.name);
    if (std::any_of(tasks.begin(), tasks.end(), [&](const Task& task) { return task.group == name; })) {
      out.push_back({name, group.alias, "mmlu", kMmluVersion});
    }
  }
  if (!out.empty()) out.push_back({"mmlu", "mmlu", "", kMmluVersion});
  return out;
}

}  // namespace retort::harness
