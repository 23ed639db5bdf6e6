// Every recall probe, once.
#include "base/suggest.h"
#include "eval/probes/probe.h"

namespace retort::probes {

Result<std::vector<Example>> make_mqar(const Source& source, const Cell& cell, int64_t count);
Result<std::vector<Example>> make_needle(const Source& source, const Cell& cell, int64_t count);
Result<std::vector<Example>> make_passkey(const Source& source, const Cell& cell, int64_t count);
Result<std::vector<Example>> make_copy(const Source& source, const Cell& cell, int64_t count);
Result<std::vector<Example>> make_phonebook(const Source& source, const Cell& cell, int64_t count);

const std::vector<Task>& tasks() {
  static const std::vector<Task> list = {
      {"mqar", "multi-query associative recall: random keys and values, every key asked for once", Task::Pairs::kGiven, make_mqar},
      {"needle", "numbers said in sentences of a long text, and asked for by name", Task::Pairs::kGiven, make_needle},
      {"passkey", "one number in a text that repeats itself", Task::Pairs::kOne, make_passkey},
      {"copy", "a text once more, word for word", Task::Pairs::kOne, make_copy},
      {"phonebook", "phone numbers by name, from a list", Task::Pairs::kFitting, make_phonebook},
  };
  return list;
}

Result<const Task*> find_task(const std::string& name) {
  std::vector<std::string> known;
  for (const Task& task : tasks()) {
    if (task.name == name) return &task;
    known.push_back(task.name);
  }
  return invalid("no probe '", name, "'", suggestion(name, known));
}

std::vector<Cell> cells_of(const Task& task, const std::vector<int64_t>& lengths, const std::vector<int64_t>& pairs) {
  std::vector<Cell> out;
  for (const int64_t length : lengths) {
    if (task.pairs != Task::Pairs::kGiven) {
      out.push_back({task.name, length, 0});
      continue;
    }
    for (const int64_t count : pairs) out.push_back({task.name, length, count});
  }
  return out;
}

Result<std::vector<Example>> make_examples(const Source& source, const Cell& cell, int64_t count) {
  RETORT_TRY(const Task* task, find_task(cell.task));
  return task->make(source, cell, count);
}

}  // namespace retort::probes
