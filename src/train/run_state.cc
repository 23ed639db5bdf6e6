#include "train/run_state.h"

#include <algorithm>

namespace retort::train {
namespace {

using Json = nlohmann::json;

// Reads checked fields; the first wrong one is remembered.
struct Reader {
  const Json& object;
  bool good = true;

  const Json* find(const char* key) {
    if (object.is_object() && object.contains(key)) return &object[key];
    good = false;
    return nullptr;
  }
  void whole(const char* key, int64_t& value) {
    const Json* field = find(key);
    if (field && field->is_number_integer()) value = field->get<int64_t>();
    else good = false;
  }
  void number(const char* key, double& value) {
    const Json* field = find(key);
    if (field && field->is_number()) value = field->get<double>();
    else good = good && field && field->is_null();  // NaN is written as null
  }
  void text(const char* key, std::string& value) {
    const Json* field = find(key);
    if (field && field->is_string()) value = field->get<std::string>();
    else good = false;
  }
};

bool read_report(const Json& json, StageReport& report) {
  Reader r{json};
  r.text("name", report.name);
  r.whole("steps", report.steps);
  r.whole("skipped", report.skipped);
  r.whole("tokens", report.tokens);
  r.number("seconds", report.seconds);
  r.number("gemm_seconds", report.gemm_seconds);
  r.number("compute_seconds", report.compute_seconds);
  r.number("first_loss", report.first_loss);
  r.number("last_loss", report.last_loss);
  return r.good;
}

bool read_part(const Json& json, Part& part) {
  Reader r{json};
  int64_t window = 0, sinks = 0;
  r.text("mixer", part.mixer);
  r.whole("window", window);
  r.whole("sinks", sinks);
  const Json* heads = r.find("kv_heads");
  const Json* config = r.find("config");
  if (!r.good || !heads->is_array() || !config->is_object()) return false;
  for (const auto& head : *heads) {
    if (!head.is_number_integer()) return false;
    part.kv_heads.push_back(head.get<int>());
  }
  part.window = {int(window), int(sinks)};
  part.config = *config;
  return true;
}

bool read_plan(const Json& json, std::vector<LayerPlan>& plan) {
  if (!json.is_array()) return false;
  for (const auto& layer : json) {
    if (!layer.is_array()) return false;
    LayerPlan parts;
    for (const auto& item : layer) {
      if (!read_part(item, parts.parts.emplace_back())) return false;
    }
    plan.push_back(std::move(parts));
  }
  return true;
}

void compare(const std::string& where, const Json& before, const Json& now, std::vector<std::string>& out) {
  if (before == now) return;
  if (before.is_object() && now.is_object()) {
    for (const auto& [key, value] : before.items()) {
      const std::string name = where.empty() ? key : where + "." + key;
      if (!now.contains(key)) out.push_back(name + " is gone");
      else compare(name, value, now[key], out);
    }
    for (const auto& [key, value] : now.items()) {
      if (!before.contains(key)) out.push_back((where.empty() ? key : where + "." + key) + " is new");
    }
    return;
  }
  if (before.is_array() && now.is_array() && before.size() == now.size() && !before.empty() && before[0].is_object()) {
    for (size_t i = 0; i < before.size(); ++i) {
      const bool named = before[i].contains("name") && before[i]["name"].is_string();
      compare(named ? before[i]["name"].get<std::string>() : cat(where, "[", i, "]"), before[i], now[i], out);
    }
    return;
  }
  out.push_back(cat(where, ": ", before.dump(), " -> ", now.dump()));
}

}  // namespace

Json stage_report_json(const StageReport& r) {
  return {{"name", r.name}, {"steps", r.steps}, {"skipped", r.skipped}, {"tokens", r.tokens}, {"seconds", r.seconds},
          {"gemm_seconds", r.gemm_seconds}, {"compute_seconds", r.compute_seconds}, {"first_loss", r.first_loss},
          {"last_loss", r.last_loss}};
}

Json plan_json(const std::vector<LayerPlan>& plan) {
  Json out = Json::array();
  for (const auto& layer : plan) {
    Json parts = Json::array();
    for (const auto& part : layer.parts) {
      parts.push_back({{"mixer", part.mixer}, {"kv_heads", part.kv_heads}, {"window", part.window.size},
                       {"sinks", part.window.sinks}, {"config", part.config}});
    }
    out.push_back(std::move(parts));
  }
  return out;
}

Json to_json(const RunState& s) {
  Json done = Json::array();
  for (const auto& report : s.done) done.push_back(stage_report_json(report));
  return {{"format", 1}, {"recipe", s.recipe}, {"teacher_hash", s.teacher_hash}, {"data_hash", s.data_hash},
          {"plan", plan_json(s.plan)}, {"kept", s.kept}, {"start", s.start}, {"stage", s.stage},
          {"current", stage_report_json(s.current)}, {"pace", s.pace}, {"optimizer_steps", s.optimizer_steps}, {"cursor", s.cursor},
          {"run_step", s.run_step}, {"tokens", s.tokens}, {"seconds", s.seconds}, {"metrics_bytes", s.metrics.lines},
          {"event_bytes", s.metrics.events}, {"done", done}};
}

Result<RunState> run_state_from_json(const Json& json, const std::string& where) {
  RunState s;
  Reader r{json};
  int64_t format = 0, lines = 0, events = 0;
  r.whole("format", format);
  r.text("teacher_hash", s.teacher_hash);
  r.text("data_hash", s.data_hash);
  r.whole("stage", s.stage);
  r.number("pace", s.pace);
  r.whole("optimizer_steps", s.optimizer_steps);
  r.whole("run_step", s.run_step);
  r.whole("tokens", s.tokens);
  r.number("seconds", s.seconds);
  r.whole("metrics_bytes", lines);
  r.whole("event_bytes", events);
  for (const char* key : {"recipe", "plan", "kept", "start", "current", "cursor", "done"}) r.find(key);
  if (!r.good || format != 1) return invalid(where, ": not the state of a run that this version can go on with");
  bool good = read_plan(json["plan"], s.plan) && read_report(json["current"], s.current) && json["kept"].is_array() && json["done"].is_array();
  for (size_t i = 0; good && i < json["kept"].size(); ++i) {
    good = json["kept"][i].is_string();
    if (good) s.kept.push_back(json["kept"][i].get<std::string>());
  }
  for (size_t i = 0; good && i < json["done"].size(); ++i) good = read_report(json["done"][i], s.done.emplace_back());
  if (!good || s.stage < 0) return invalid(where, ": damaged");
  s.recipe = json["recipe"];
  s.start = json["start"];
  s.cursor = json["cursor"];
  s.metrics = {uint64_t(std::max<int64_t>(0, lines)), uint64_t(std::max<int64_t>(0, events))};
  return s;
}

std::string recipe_difference(const Json& before, const Json& now) {
  constexpr size_t kShown = 4;
  std::vector<std::string> differences;
  compare("", before, now, differences);
  std::string out;
  for (size_t i = 0; i < std::min(kShown, differences.size()); ++i) out += (i ? "; " : "") + differences[i];
  if (differences.size() > kShown) out += cat("; and ", differences.size() - kShown, " more");
  return out;
}

}  // namespace retort::train
