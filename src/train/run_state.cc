#include "train/run_state.h"

#include <algorithm>

#include "io/json_fields.h"

namespace retort::train {
namespace {

using StateJson = nlohmann::json;

Result<StageReport> read_report(const JsonFields& fields) {
  StageReport report;
  RETORT_TRY(report.name, fields.text("name"));
  RETORT_TRY(report.steps, fields.whole("steps"));
  RETORT_TRY(report.skipped, fields.whole("skipped"));
  RETORT_TRY(report.tokens, fields.whole("tokens"));
  RETORT_TRY(report.seconds, fields.number("seconds"));
  RETORT_TRY(report.gemm_seconds, fields.number("gemm_seconds"));
  RETORT_TRY(report.compute_seconds, fields.number("compute_seconds"));
  RETORT_TRY(report.first_loss, fields.number("first_loss"));
  RETORT_TRY(report.last_loss, fields.number("last_loss"));
  if (fields.has("switched_at")) {
    RETORT_TRY(report.switched_at, fields.whole("switched_at"));
  }
  return report;
}

Result<Part> read_part(const JsonFields& fields) {
  Part part;
  RETORT_TRY(part.mixer, fields.text("mixer"));
  RETORT_TRY(part.window.size, fields.integer("window"));
  RETORT_TRY(part.window.sinks, fields.integer("sinks"));
  RETORT_TRY(const StateJson* heads, fields.array("kv_heads"));
  for (const auto& head : *heads) {
    if (!head.is_number_integer()) return fields.bad("key 'kv_heads' is not a list of whole numbers");
    part.kv_heads.push_back(head.get<int>());
  }
  RETORT_RETURN_IF_ERROR(fields.object("config"));
  part.config = fields.at("config");
  return part;
}

Result<std::vector<LayerPlan>> read_plan(const JsonFields& fields) {
  std::vector<LayerPlan> plan;
  RETORT_TRY(const StateJson* layers, fields.array("plan"));
  for (const auto& layer : *layers) {
    if (!layer.is_array()) return fields.bad("key 'plan' is not a list of lists");
    LayerPlan& parts = plan.emplace_back();
    for (const auto& item : layer) {
      RETORT_TRY(auto part, read_part(JsonFields(item, cat(fields.where(), ": plan[", plan.size() - 1, "]"))));
      parts.parts.push_back(std::move(part));
    }
  }
  return plan;
}

Result<std::vector<StageReport>> read_done(const JsonFields& fields) {
  std::vector<StageReport> done;
  RETORT_TRY(const StateJson* reports, fields.array("done"));
  for (const auto& item : *reports) {
    RETORT_TRY(auto report, read_report(JsonFields(item, cat(fields.where(), ": done[", done.size(), "]"))));
    done.push_back(std::move(report));
  }
  return done;
}

// Absent in states of runs that had none.
Result<std::vector<std::string>> read_texts(const JsonFields& fields, const char* key) {
  std::vector<std::string> texts;
  if (!fields.has(key)) return texts;
  RETORT_TRY(const StateJson* list, fields.array(key));
  for (const auto& text : *list) {
    if (!text.is_string()) return fields.bad(cat("key '", key, "' is not a list of texts"));
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

Result<std::vector<int64_t>> read_sizes(const JsonFields& fields, const char* key) {
  std::vector<int64_t> sizes;
  if (!fields.has(key)) return sizes;
  RETORT_TRY(const StateJson* list, fields.array(key));
  for (const auto& size : *list) {
    if (!size.is_number_integer() || size.get<int64_t>() < 0) return fields.bad(cat("key '", key, "' is not a list of sizes"));
    sizes.push_back(size.get<int64_t>());
  }
  return sizes;
}

Result<RunState> read_state(const JsonFields& fields) {
  RunState s;
  RETORT_RETURN_IF_ERROR(fields.object("recipe"));
  s.recipe = fields.at("recipe");
  RETORT_TRY(s.teacher_hash, fields.text("teacher_hash"));
  RETORT_TRY(s.data_hash, fields.text("data_hash"));
  RETORT_TRY(s.plan, read_plan(fields));
  RETORT_RETURN_IF_ERROR(fields.array("kept"));
  RETORT_TRY(s.kept, read_texts(fields, "kept"));
  RETORT_TRY(s.second_teachers, read_texts(fields, "second_teachers"));
  RETORT_TRY(s.epoch_sizes, read_sizes(fields, "epoch_sizes"));
  if (fields.has("start")) s.start = fields.at("start");
  if (fields.has("start_from")) s.start_from = fields.at("start_from");
  if (fields.has("data")) s.data = fields.at("data");
  if (fields.has("skipped_in_a_row")) {
    RETORT_TRY(s.skipped_in_a_row, fields.whole("skipped_in_a_row"));
  }
  RETORT_TRY(s.stage, fields.whole("stage"));
  RETORT_TRY(const JsonFields current, fields.object("current"));
  RETORT_TRY(s.current, read_report(current));
  RETORT_TRY(s.pace, fields.number("pace"));
  RETORT_TRY(s.optimizer_steps, fields.whole("optimizer_steps"));
  if (fields.has("cursor")) s.cursor = fields.at("cursor");
  if (fields.has("watch")) s.watch = fields.at("watch");
  RETORT_TRY(s.run_step, fields.whole("run_step"));
  RETORT_TRY(s.tokens, fields.whole("tokens"));
  RETORT_TRY(s.seconds, fields.number("seconds"));
  RETORT_TRY(const int64_t lines, fields.whole("metrics_bytes"));
  RETORT_TRY(const int64_t events, fields.whole("event_bytes"));
  if (s.stage < 0 || lines < 0 || events < 0) return fields.bad("a count below 0");
  s.metrics = {uint64_t(lines), uint64_t(events)};
  RETORT_TRY(s.done, read_done(fields));
  return s;
}

void compare(const std::string& where, const StateJson& before, const StateJson& now, std::vector<std::string>& out) {
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

StateJson stage_report_json(const StageReport& r) {
  return {{"name", r.name}, {"steps", r.steps}, {"skipped", r.skipped}, {"tokens", r.tokens}, {"seconds", r.seconds},
          {"gemm_seconds", r.gemm_seconds}, {"compute_seconds", r.compute_seconds}, {"first_loss", r.first_loss},
          {"last_loss", r.last_loss}, {"switched_at", r.switched_at}};
}

StateJson plan_json(const std::vector<LayerPlan>& plan) {
  StateJson out = StateJson::array();
  for (const auto& layer : plan) {
    StateJson parts = StateJson::array();
    for (const auto& part : layer.parts) {
      parts.push_back({{"mixer", part.mixer}, {"kv_heads", part.kv_heads}, {"window", part.window.size},
                       {"sinks", part.window.sinks}, {"config", part.config}});
    }
    out.push_back(std::move(parts));
  }
  return out;
}

StateJson to_json(const RunState& s) {
  StateJson done = StateJson::array();
  for (const auto& report : s.done) done.push_back(stage_report_json(report));
  return {{"format", 1}, {"recipe", s.recipe}, {"teacher_hash", s.teacher_hash}, {"data_hash", s.data_hash},
          {"second_teachers", s.second_teachers}, {"epoch_sizes", s.epoch_sizes},
          {"plan", plan_json(s.plan)}, {"kept", s.kept}, {"start", s.start}, {"start_from", s.start_from}, {"data", s.data}, {"stage", s.stage},
          {"current", stage_report_json(s.current)}, {"pace", s.pace}, {"skipped_in_a_row", s.skipped_in_a_row},
          {"optimizer_steps", s.optimizer_steps}, {"cursor", s.cursor}, {"watch", s.watch},
          {"run_step", s.run_step}, {"tokens", s.tokens}, {"seconds", s.seconds}, {"metrics_bytes", s.metrics.lines},
          {"event_bytes", s.metrics.events}, {"done", done}};
}

Result<RunState> run_state_from_json(const StateJson& json, const std::string& where) {
  const JsonFields fields(json, where);
  RETORT_TRY(const int64_t format, fields.whole("format"));
  if (format != 1) return invalid(where, ": not the state of a run that this version can go on with");
  return read_state(fields);
}

std::string recipe_difference(const StateJson& before, const StateJson& now) {
  constexpr size_t kShown = 4;
  std::vector<std::string> differences;
  compare("", before, now, differences);
  std::string out;
  for (size_t i = 0; i < std::min(kShown, differences.size()); ++i) out += (i ? "; " : "") + differences[i];
  if (differences.size() > kShown) out += cat("; and ", differences.size() - kShown, " more");
  return out;
}

}  // namespace retort::train
