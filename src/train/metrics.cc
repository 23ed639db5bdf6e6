#include "train/metrics.h"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/format.h"

namespace retort::train {
namespace {

constexpr const char* kEventPrefix = "events.out.tfevents.";

// TensorBoard wants the prefix; a resumed run finds the file by it.
std::string event_path(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().rfind(kEventPrefix, 0) == 0) return entry.path().string();
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return cat(folder, "/", kEventPrefix, std::chrono::duration_cast<std::chrono::seconds>(now).count(), ".retort");
}

// JSON has no NaN; null says that the step had none.
nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

}  // namespace

Result<MetricsLog> MetricsLog::open(const std::string& folder, MetricsPosition keep) {
  RETORT_TRY(auto lines, AppendFile::open(folder + "/metrics.jsonl", keep.lines));
  RETORT_TRY(auto events, EventWriter::open(event_path(folder), keep.events));
  return MetricsLog(std::move(lines), std::move(events));
}

Status MetricsLog::add(const MetricsRow& row) {
  nlohmann::ordered_json line = {{"stage", row.stage}, {"step", row.step}, {"steps", row.steps}, {"loss", number(row.loss)}};
  std::vector<std::pair<std::string, double>> scalars = {{row.stage + "/loss", row.loss}};
  for (const auto& [name, value] : row.parts) {
    line["loss/" + name] = number(value);
    scalars.emplace_back(row.stage + "/loss/" + name, value);
  }
  for (const auto& [name, value] : row.measures) {
    line[name] = number(value);
    scalars.emplace_back(row.stage + "/" + name, value);
  }
  const std::pair<const char*, double> numbers[] = {{"lr", row.lr}, {"grad_norm", row.grad_norm}};
  for (const auto& [name, value] : numbers) {
    line[name] = number(value);
    scalars.emplace_back(cat(row.stage, "/", name), value);
  }
  if (!row.teacher.empty()) line["teacher"] = row.teacher;
  line["tokens"] = row.tokens;
  const std::pair<const char*, double> speeds[] = {{"tokens_per_s", row.tokens_per_s}, {"time", row.time}, {"gemm_share", row.gemm_share}};
  for (const auto& [name, value] : speeds) {
    line[name] = number(value);
    if (std::string(name) != "time") scalars.emplace_back(cat(row.stage, "/", name), value);
  }
  for (const auto& loss : row.layers) {
    auto& values = line["layers"][loss.name] = nlohmann::ordered_json::array();
    for (size_t l = 0; l < loss.values.size(); ++l) {
      const bool has = std::isfinite(loss.values[l]);
      values.push_back(has ? number(std::strtod(format_significant(loss.values[l], 4).c_str(), nullptr)) : nullptr);
      if (has) scalars.emplace_back(cat(row.stage, "/loss/", loss.name, "/layer", l), loss.values[l]);
    }
  }
  RETORT_RETURN_IF_ERROR(lines_.write(line.dump() + "\n"));
  RETORT_RETURN_IF_ERROR(lines_.flush());
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  RETORT_RETURN_IF_ERROR(events_.scalars(row.run_step, now, scalars));
  return events_.flush();
}

}  // namespace retort::train
