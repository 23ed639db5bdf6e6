#include "eval/tasks/results_files.h"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>

#include "base/atomic_file.h"
#include "eval/tasks/results.h"

namespace retort::harness {
namespace {

using Clock = std::chrono::system_clock;

// Local time as the harness names its files: 2026-01-31T12-00-00.000000.
std::string file_date(Clock::time_point when) {
  const std::time_t seconds = Clock::to_time_t(when);
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(when.time_since_epoch()).count() % 1000000;
  std::tm local{};
  localtime_r(&seconds, &local);
  char date[64], out[96];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H-%M-%S", &local);
  std::snprintf(out, sizeof out, "%s.%06lld", date, static_cast<long long>(micros));
  return out;
}

}  // namespace

Status write_results(const std::string& folder, const Json& results, std::span<const TaskRun> runs, bool samples) {
  const auto place = std::filesystem::path(folder) / results["model_name_sanitized"].get<std::string>();
  std::error_code error;
  std::filesystem::create_directories(place, error);
  if (error) return io_error(place.string(), ": ", error.message());
  const std::string date = file_date(Clock::now());
  RETORT_RETURN_IF_ERROR(write_text_file((place / cat("results_", date, ".json")).string(), results.dump(2)));
  if (!samples) return {};
  for (const TaskRun& run : runs) {
    RETORT_TRY(AtomicFile file, AtomicFile::create((place / cat("samples_", run.task.name, "_", date, ".jsonl")).string()));
    for (size_t d = 0; d < run.documents.size(); ++d) RETORT_RETURN_IF_ERROR(file.write(sample_json(run, d).dump() + "\n"));
    RETORT_RETURN_IF_ERROR(file.commit());
  }
  return {};
}

}  // namespace retort::harness
