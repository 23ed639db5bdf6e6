#include "train/recipe.h"

#include <algorithm>
#include <cmath>
#include <fnmatch.h>
#include <span>
#include <sstream>

#include "base/mapped_file.h"
#include "base/suggest.h"
#include "io/yaml_fields.h"
#include "mixers/list.h"
#include "train/recipe_parts.h"
#include "train/schedule.h"

namespace retort::train {
namespace {

constexpr int64_t kMostCalibrationTokens = 1'000'000;  // the teacher's states at all of them are held at once

struct Named {
  const char* name;
  int value;
};

constexpr Named kLosses[] = {{"attn_out", int(LossKind::kAttnOut)}, {"hidden", int(LossKind::kHidden)},
                             {"matrix", int(LossKind::kMatrix)}, {"attn_xent", int(LossKind::kAttnXent)},
                             {"logits", int(LossKind::kLogits)}, {"ce", int(LossKind::kCe)}, {"dpo", int(LossKind::kDpo)}};
constexpr Named kLayerForms[] = {{"relative", int(LossForm::kRelative)}, {"l2", int(LossForm::kL2)}, {"mse", int(LossForm::kMse)}};
constexpr Named kMatrixForms[] = {{"frobenius", int(LossForm::kFrobenius)}, {"mse", int(LossForm::kMse)}};
constexpr Named kPlaces[] = {{"output", 0}, {"heads", 1}};
constexpr Named kLogitForms[] = {{"kl", int(LossForm::kKl)}, {"ce", int(LossForm::kSoftCe)}};
constexpr Named kReductions[] = {{"token_mean", int(Reduction::kTokenMean)}, {"batch_mean", int(Reduction::kBatchMean)}};
constexpr Named kMasks[] = {{"all", int(LossMask::kAll)}, {"labels", int(LossMask::kLabels)}};
constexpr Named kReferences[] = {{"teacher", int(Reference::kTeacher)}, {"start", int(Reference::kStart)}};
constexpr Named kInits[] = {{"teacher", int(StudentInit::kTeacher)}, {"random", int(StudentInit::kRandom)}};
constexpr Named kSchedules[] = {{"constant", int(ScheduleKind::kConstant)}, {"linear", int(ScheduleKind::kLinear)},
                                {"cosine", int(ScheduleKind::kCosine)}, {"wsd", int(ScheduleKind::kWsd)},
                                {"plateau", int(ScheduleKind::kPlateau)}};

// The value of a name, or the first error of the source.
template <class Enum>
void choose(YamlSource& source, const YAML::Node& node, const std::string& key, const char* what, std::span<const Named> known,
            const std::string& name, Enum& value) {
  std::vector<std::string> names;
  for (const auto& entry : known) {
    if (name == entry.name) {
      value = Enum(entry.value);
      return;
    }
    names.emplace_back(entry.name);
  }
  source.fail(node, key, "unknown ", what, " '", name, "'", suggestion(name, names));
}

template <class Enum>
const char* name_of(std::span<const Named> known, Enum value) {
  for (const auto& entry : known) {
    if (entry.value == int(value)) return entry.name;
  }
  return "none";
}

bool is_layer_loss(LossKind kind) {
  return kind == LossKind::kAttnOut || kind == LossKind::kHidden || kind == LossKind::kMatrix || kind == LossKind::kAttnXent;
}

std::span<const Named> forms_of(LossKind kind) {
  switch (kind) {
    case LossKind::kAttnOut:
    case LossKind::kHidden: return kLayerForms;
    case LossKind::kMatrix: return kMatrixForms;
    case LossKind::kLogits: return kLogitForms;
    default: return {};
  }
}

// A key whose value is one of a few names.
template <class Enum>
void read_name(YamlSource& source, YamlFields& fields, const char* key, const char* what, std::span<const Named> known, Enum& value) {
  std::string name;
  fields.text(key, name);
  if (!name.empty()) choose(source, fields.take(key), fields.key_of(key), what, known, name, value);
}

LossSpec read_loss(YamlSource& source, const YAML::Node& name_node, const YAML::Node& node, const std::string& key) {
  LossSpec loss;
  const std::string name = name_node.IsScalar() ? name_node.Scalar() : "?";
  choose(source, name_node, key, "loss", kLosses, name, loss.kind);
  if (!source.status.ok()) return loss;
  if (loss.kind == LossKind::kHidden) loss.form = LossForm::kL2;
  if (loss.kind == LossKind::kMatrix) loss.form = LossForm::kFrobenius;
  if (loss.kind == LossKind::kAttnXent) loss.form = LossForm::kSoftCe;
  if (loss.kind == LossKind::kLogits) loss.form = LossForm::kKl;
  if (loss.kind == LossKind::kCe) loss.form = LossForm::kHard, loss.mask = LossMask::kLabels;
  if (loss.kind == LossKind::kDpo) loss.form = LossForm::kSigmoid;
  const std::string what = "loss '" + name + "'";
  if (node.IsScalar()) {
    if (!parse_number(node.Scalar(), loss.weight) || loss.weight < 0) {
      source.fail(node, key, what, " is '", node.Scalar(), "'; expected its weight, or a mapping such as {weight: 1}");
    }
    return loss;
  }
  YamlFields fields(source, node, key, what);
  fields.number("weight", loss.weight, 0, 1e9);
  if (const auto forms = forms_of(loss.kind); !forms.empty()) read_name(source, fields, "form", "form of a loss", forms, loss.form);
  if (loss.kind == LossKind::kAttnOut) read_name(source, fields, "at", "place", kPlaces, loss.at_heads);
  if (loss.kind == LossKind::kHidden) fields.whole("gap", loss.gap, 1, 1 << 16);
  if (loss.kind == LossKind::kLogits) {
    fields.number("temperature", loss.temperature, 1e-3, 1e3);
    read_name(source, fields, "reduction", "reduction", kReductions, loss.reduction);
    read_cache(source, fields, loss);
  }
  if (loss.kind == LossKind::kLogits || loss.kind == LossKind::kCe) read_name(source, fields, "mask", "mask", kMasks, loss.mask);
  if (loss.kind == LossKind::kDpo) {
    fields.number("beta", loss.beta, 1e-6, 1e3);
    read_name(source, fields, "reference", "reference", kReferences, loss.reference);
  }
  fields.finish();
  return loss;
}

void read_losses(YamlSource& source, YamlFields& stage, std::vector<LossSpec>& losses) {
  if (!stage.has("loss")) return source.fail(stage.node(), stage.key_of("loss"), "a stage needs 'loss', such as loss: {attn_out: 1}");
  const YAML::Node node = stage.take("loss");
  if (node.IsScalar()) {  // loss: attn_out
    losses.push_back(read_loss(source, node, YAML::Node(YAML::NodeType::Map), stage.key_of("loss")));
  } else if (node.IsMap() && node.size() > 0) {
    const YamlFields once(source, node, stage.key_of("loss"), "'loss'");  // no loss is named twice
    for (const auto& entry : node) {
      const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
      losses.push_back(read_loss(source, entry.first, entry.second, stage.key_of("loss") + "." + name));
    }
  } else {
    return source.fail(node, stage.key_of("loss"), "'loss' must name one loss, or map losses to weights");
  }
  const auto layered = std::count_if(losses.begin(), losses.end(), [](const LossSpec& l) { return is_layer_loss(l.kind); });
  if (layered != 0 && layered != int64_t(losses.size())) {
    source.fail(node, stage.key_of("loss"), "attn_out, hidden, matrix and attn_xent feed every layer from the teacher, logits and ce run the student end to end: "
                "they cannot share a stage; make two");
  }
  const bool pairs = std::any_of(losses.begin(), losses.end(), [](const LossSpec& l) { return l.kind == LossKind::kDpo; });
  if (pairs && losses.size() > 1) {
    source.fail(node, stage.key_of("loss"), "dpo reads pairs of answers, the other losses read text: they cannot share a stage; make two");
  }
}

// What dpo has no use for, and what nothing else has.
void check_pairs(YamlSource& source, YamlFields& fields, const StageSpec& stage) {
  if (!stage.compares_pairs()) {
    if (stage.max_prompt > 0) source.fail(fields.take("max_prompt"), fields.key_of("max_prompt"), "'max_prompt' cuts the prompts of pairs; stage '", stage.name, "' has no dpo");
    return;
  }
  if (stage.max_prompt >= stage.seq) {
    source.fail(fields.take("max_prompt"), fields.key_of("max_prompt"), "'max_prompt' is ", stage.max_prompt, "; it must be below 'seq', ", stage.seq,
                ", or no answer has a place");
  }
  if (stage.repeat_every > 0) source.fail(fields.take("repeat_every"), fields.key_of("repeat_every"), "'repeat_every' is for text; dpo reads pairs of answers");
  if (stage.logit_fraction < 1) {
    source.fail(fields.take("logit_fraction"), fields.key_of("logit_fraction"), "'logit_fraction' must be 1: dpo sums over whole answers");
  }
}

// What a stage that compares layers has no use for: it computes no logits, and keeps one layer's graph at a time.
void check_layers(YamlSource& source, YamlFields& fields, const StageSpec& stage) {
  if (!stage.layer_wise()) return;
  const auto refuse = [&](const char* key, const char* why) {
    source.fail(fields.take(key), fields.key_of(key), "'", key, "' is for stages that run end to end (logits, ce); stage '", stage.name,
                "' compares layers, ", why, ": remove it there");
  };
  if (stage.logit_fraction < 1) refuse("logit_fraction", "which has no logits");
  if (stage.checkpoint_activations) refuse("checkpoint_activations", "which keeps one layer's graph anyway");
}

// A share of the stage or, under NAME_steps, a number of steps.
void read_extent(YamlSource& source, YamlFields& fields, const char* name, const char* steps_name, double& share, int64_t& steps) {
  fields.number(name, share, 0, 1);
  if (!fields.has(steps_name)) return;
  fields.count(steps_name, steps, 0);
  if (fields.has(name)) source.fail(fields.take(name), fields.key_of(name), "give '", name, "' or '", steps_name, "', not both");
}

// `peak`: the stage's lr, which no floor is above.
void read_schedule(YamlSource& source, YamlFields& stage, double peak, ScheduleSpec& schedule) {
  if (!stage.has("schedule")) return;
  const YAML::Node node = stage.take("schedule");
  const std::string key = stage.key_of("schedule");
  if (node.IsScalar()) return choose(source, node, key, "schedule", kSchedules, node.Scalar(), schedule.kind);
  if (!node.IsMap() || node.size() != 1) {
    return source.fail(node, key, "'schedule' must be one of constant, linear, cosine, wsd, plateau, or one of them with fields: {wsd: {warmup: 0.1}}");
  }
  const auto entry = *node.begin();
  const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
  choose(source, entry.first, key, "schedule", kSchedules, name, schedule.kind);
  if (!source.status.ok()) return;
  YamlFields fields(source, entry.second, key + "." + name, "schedule '" + name + "'");
  read_extent(source, fields, "warmup", "warmup_steps", schedule.warmup, schedule.warmup_steps);
  if (schedule.kind == ScheduleKind::kWsd) read_extent(source, fields, "decay", "decay_steps", schedule.decay, schedule.decay_steps);
  if (schedule.kind != ScheduleKind::kConstant) fields.number("min_lr", schedule.min_lr, 0, peak);
  if (schedule.kind == ScheduleKind::kPlateau) {
    fields.number("factor", schedule.factor, 1e-6, 0.999999);
    read_plateau(fields, schedule.plateau);
  }
  fields.finish();
}

void read_betas(YamlSource& source, YamlFields& stage, std::array<double, 2>& betas) {
  if (!stage.has("betas")) return;
  const YAML::Node node = stage.take("betas");
  bool good = node.IsSequence() && node.size() == 2;
  for (size_t i = 0; good && i < 2; ++i) {
    good = node[i].IsScalar() && parse_number(node[i].Scalar(), betas[i]) && betas[i] >= 0 && betas[i] < 1;
  }
  if (!good) source.fail(node, stage.key_of("betas"), "'betas' must be two numbers from 0 to 1, such as [0.9, 0.95]");
}

void check_reached(YamlSource& source, YamlFields& fields, const StageSpec& stage) {
  const auto never = never_reached(stage, int64_t(BudgetMeter(stage.budget, stage.tokens_per_step()).total_steps()));   // of wall time 0: not known
  if (!never) return;
  const bool warmup = never->key == std::string("schedule");
  const std::string key = fields.key_of(never->key) + (warmup ? cat(".", schedule_name(stage.schedule.kind), ".warmup_steps") : "");
  source.fail(fields.take(never->key), key, never->message);
}

// The entry {lora: {r: 8, alpha: 16, on: [q, v]}} of 'train'.
void read_lora(YamlSource& source, const YAML::Node& node, const std::string& key, LoraSpec& lora) {
  YamlFields entry(source, node, key, "'train'");
  const YAML::Node inner = entry.take("lora");
  entry.finish();
  if (!inner.IsDefined()) return source.fail(node, key, "'train' names tensors, or has {lora: {r: 8, alpha: 16, on: [q, k, v, o]}}");
  YamlFields fields(source, inner, key + ".lora", "'lora'");
  lora = {8, 16, {"q", "k", "v", "o"}};
  fields.whole("r", lora.r, 1, 1 << 14);
  fields.number("alpha", lora.alpha, 1e-6, 1e6);
  fields.texts("on", lora.on);
  if (lora.on.empty()) source.fail(fields.take("on"), fields.key_of("on"), "'on' names nothing; remove it or name q, k, v, o, gate, up, down");
  fields.finish();
}

// Patterns, {lora: ...}, or a list of both.
void read_train(YamlSource& source, YamlFields& stage_fields, StageSpec& stage) {
  if (!stage_fields.has("train")) return;
  const YAML::Node node = stage_fields.take("train");
  const std::string key = stage_fields.key_of("train");
  const bool maps = node.IsMap() || (node.IsSequence() && std::any_of(node.begin(), node.end(), [](const YAML::Node& item) { return item.IsMap(); }));
  if (!maps) {
    stage_fields.texts("train", stage.train);
    if (stage.train.empty()) source.fail(node, key, "'train' names nothing; remove it or name mixers");
    return;
  }
  stage.train.clear();
  if (node.IsMap()) return read_lora(source, node, key, stage.lora);
  for (const auto& item : node) {
    if (item.IsScalar()) stage.train.push_back(item.Scalar());
    else if (stage.lora.r == 0) read_lora(source, item, key, stage.lora);
    else source.fail(item, key, "'train' has two entries that are no names; one {lora: ...} has all that it is 'on'");
  }
}

StageSpec read_stage(YamlSource& source, const YAML::Node& node, const std::string& name) {
  StageSpec stage;
  stage.name = name;
  YamlFields fields(source, node, name, "stage '" + name + "'");
  fields.take("name");
  read_losses(source, fields, stage.losses);
  read_train(source, fields, stage);
  fields.whole("seq", stage.seq, 2, 1 << 20);
  fields.whole("batch", stage.batch, 1, 1 << 16);
  fields.whole("accumulate", stage.accumulate, 1, 1 << 16);
  fields.count("tokens", stage.budget.tokens, 1);
  fields.count("steps", stage.budget.steps, 1);
  fields.number("minutes", stage.budget.minutes, 1e-6, 1e6);
  fields.number("epochs", stage.budget.epochs, 1e-6, 1e6);
  read_stage_data(source, fields, stage.data);
  fields.number("lr", stage.lr, 0, 10);
  fields.number("lr_mixers", stage.lr_mixers, 1e-30, 10);
  fields.number("lr_features", stage.lr_features, 1e-30, 10);
  fields.number("lr_gates", stage.lr_gates, 1e-30, 10);
  read_betas(source, fields, stage.betas);
  fields.number("weight_decay", stage.weight_decay, 0, 10);
  fields.number("eps", stage.eps, 1e-30, 1);
  read_schedule(source, fields, stage.lr, stage.schedule);
  fields.number("clip", stage.clip, 0, 1e9);
  fields.whole("max_skipped", stage.max_skipped, 1, 1 << 30);
  fields.number("ema", stage.ema, 0, 0.999999);
  fields.number("logit_fraction", stage.logit_fraction, 1e-6, 1);
  fields.whole("repeat_every", stage.repeat_every, 0, 1 << 30);
  fields.flag("checkpoint_activations", stage.checkpoint_activations);
  fields.whole("max_prompt", stage.max_prompt, 1, 1 << 20);
  if (!fields.has("lr")) source.fail(node, name, "stage '", name, "' needs 'lr'");
  if (std::none_of(std::begin(kBudgets), std::end(kBudgets), [&](const char* budget) { return fields.has(budget); })) {
    source.fail(node, name, "stage '", name, "' needs a budget: 'tokens', 'steps', 'epochs' or 'minutes'");
  }
  check_layers(source, fields, stage);
  check_pairs(source, fields, stage);
  read_switch(source, fields, stage);
  check_reached(source, fields, stage);
  fields.finish();
  return stage;
}

// An error about the mixer's fields, at the field that it names: the first one, or one that a flag set.
void fail_config(YamlSource& source, YamlFields& fields, const std::string& what, const MixerSpec& spec, const std::string& message) {
  const std::string named = message.substr(message.find(spec.mixer) + spec.mixer.size());  // a field may be called as its mixer is
  std::string blamed;
  for (const auto& [name, value] : spec.config.items()) {
    if (named.find("'" + name + "'") == std::string::npos) continue;
    const std::string key = fields.key_of("config") + "." + name;
    const bool by_flag = std::any_of(source.overridden.begin(), source.overridden.end(), [&](const auto& o) { return o.first == key; });
    if (blamed.empty() || by_flag) blamed = name;
  }
  const YAML::Node config = fields.take("config");
  if (blamed.empty()) return source.fail(config, fields.key_of("config"), what, ": ", message);
  source.fail(config[blamed], fields.key_of("config") + "." + blamed, what, ": ", message);
}

void check_mixer(YamlSource& source, YamlFields& fields, const std::string& what, const MixerSpec& spec) {
  if (!source.status.ok()) return;
  const bool known = visit_mixer(spec.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    if (const auto config = parse_config<Mixer>(spec.config); !config.ok()) fail_config(source, fields, what, spec, config.error().message);
    if (Mixer::kNeedsWindow && spec.window.size == 0) {
      source.fail(fields.node(), fields.key_of("window"), what, ": mixer '", spec.mixer, "' needs a window of at least 1 token");
    }
  });
  if (known) return;
  std::vector<std::string> names;
  for_each_mixer([&](auto tag) { names.emplace_back(decltype(tag)::type::kName); });
  const std::string near = nearest_name(spec.mixer, names);
  source.fail(fields.take("mixer"), fields.key_of("mixer"), what, ": unknown mixer '", spec.mixer, "'; ",
              near.empty() ? "" : cat("did you mean '", near, "'? "), "known: ", mixer_names());
}

Result<nlohmann::json> scalar_json(const std::string& text) {
  const auto value = nlohmann::json::parse(text, nullptr, false);
  if (!value.is_discarded() && value.is_primitive()) return value;
  double number = 0;
  if (parse_number(text, number)) return nlohmann::json(number);
  return nlohmann::json(text);
}

void read_keep(YamlSource& source, YamlFields& fields, KeepSpec& keep) {
  if (!fields.has("keep")) return;
  const YAML::Node node = fields.take("keep");
  std::string text;
  if (node.IsScalar()) text = node.Scalar();
  if (node.IsSequence()) {
    for (const auto& item : node) text += (text.empty() ? "" : ",") + (item.IsScalar() ? item.Scalar() : std::string("?"));
    text = text.empty() ? "none" : "list:" + text;
  }
  auto parsed = parse_keep(text);
  if (!parsed.ok()) return source.fail(node, fields.key_of("keep"), "student: ", parsed.error().message);
  keep = *parsed;
}

// The keys that `student` and each of its `layers` share; what is absent stays as it is.
void read_mixer(YamlSource& source, YamlFields& fields, const std::string& what, MixerSpec& spec) {
  const std::string before = spec.mixer;
  fields.text("mixer", spec.mixer);
  fields.whole("window", spec.window.size, 0, 1 << 20);
  fields.whole("sinks", spec.window.sinks, 0, 4096);
  if (spec.window.size == 0) spec.window.sinks = 0;
  if (fields.has("config") || spec.mixer != before) spec.config = nlohmann::json::object();
  if (fields.has("config")) {
    const YAML::Node config = fields.take("config");
    const std::string key = fields.key_of("config");
    if (!config.IsMap()) source.fail(config, key, what, ": 'config' must be a mapping of the mixer's fields");
    else {
      for (const auto& entry : config) {
        if (!entry.first.IsScalar() || !entry.second.IsScalar()) {
          const std::string field = entry.first.IsScalar() ? entry.first.Scalar() : "?";
          source.fail(entry.first, key + "." + field, what, ": the fields in 'config' must be numbers");
          break;
        }
        spec.config[entry.first.Scalar()] = *scalar_json(entry.second.Scalar());
      }
    }
  }
  check_mixer(source, fields, what, spec);
}

// 7, "0-3,7", or a list of these.
void read_numbers(YamlSource& source, YamlFields& fields, const std::string& what, const char* name, std::vector<int>& numbers) {
  if (!fields.has(name)) return;
  const YAML::Node node = fields.take(name);
  std::string text;
  if (node.IsScalar()) text = node.Scalar();
  if (node.IsSequence()) {
    for (const auto& item : node) text += (text.empty() ? "" : ",") + (item.IsScalar() ? item.Scalar() : std::string("?"));
  }
  auto parsed = parse_numbers(text);
  if (!parsed.ok()) return source.fail(node, fields.key_of(name), what, ": '", name, "' is ", parsed.error().message);
  numbers = *parsed;
}

// A kv head of a layer that both name; -1 for all heads. False when there is none.
bool overlap(const LayerSpec& a, const LayerSpec& b, int& layer, int& head) {
  const auto shared = [](const std::vector<int>& x, const std::vector<int>& y, int& value) {
    const auto found = std::find_if(x.begin(), x.end(), [&](int n) { return std::binary_search(y.begin(), y.end(), n); });
    if (found != x.end()) value = *found;
    return found != x.end();
  };
  head = -1;
  return shared(a.layers, b.layers, layer) && (a.heads.empty() || b.heads.empty() || shared(a.heads, b.heads, head));
}

void read_layers(YamlSource& source, YamlFields& student_fields, StudentSpec& student) {
  if (!student_fields.has("layers")) return;
  const YAML::Node node = student_fields.take("layers");
  const std::string key = student_fields.key_of("layers");
  if (!node.IsSequence()) {
    return source.fail(node, key, "student: 'layers' must be a list of other mixers, such as [{layers: 0-3, mixer: gla}]");
  }
  for (size_t i = 0; i < node.size() && source.status.ok(); ++i) {
    const std::string what = cat(key, "[", i, "]");
    YamlFields fields(source, node[i], cat(key, ".", i), what);
    LayerSpec spec{student, {}, {}};
    read_numbers(source, fields, what, "layers", spec.layers);
    read_numbers(source, fields, what, "heads", spec.heads);
    read_mixer(source, fields, what, spec);
    if (spec.mixer == Attention::kName && fields.has("window") && spec.window.size > 0) {
      source.fail(fields.take("window"), fields.key_of("window"), what, ": mixer 'attention' takes no window; use 'window'");
    }
    fields.finish();
    if (spec.layers.empty()) source.fail(node[i], key, what, " needs 'layers', such as layers: 0-3,7");
    for (size_t j = 0; j < student.layers.size(); ++j) {
      int layer = 0, head = -1;
      if (!overlap(student.layers[j], spec, layer, head)) continue;
      const std::string named = head < 0 ? cat("layer ", layer) : cat("kv head ", head, " of layer ", layer);
      source.fail(node[i], key, what, ": ", named, " is in ", key, "[", j, "] too; name every kv head once");
    }
    student.layers.push_back(std::move(spec));
  }
}

// one_by_one, or the shares of the layers that the steps before the last one keep.
void read_stepwise(YamlSource& source, YamlFields& fields, const KeepSpec& keep, StepwiseSpec& stepwise) {
  if (!fields.has("stepwise")) return;
  const YAML::Node node = fields.take("stepwise");
  const std::string key = fields.key_of("stepwise");
  bool good = node.IsScalar() || node.IsSequence();
  stepwise.one_by_one = node.IsScalar() && node.Scalar() == "one_by_one";
  if (good && !stepwise.one_by_one) {
    for (const auto& item : node.IsScalar() ? YAML::Load("[" + node.Scalar() + "]") : node) {
      double share = 0;
      good = good && item.IsScalar() && parse_number(item.Scalar(), share) && share > 0 && share < (stepwise.shares.empty() ? 1.0 : stepwise.shares.back());
      stepwise.shares.push_back(share);
    }
  }
  if (!good) {
    return source.fail(node, key, "student: 'stepwise' must be one_by_one, or the falling shares of the layers that keep attention on the way to 'keep', such as [0.75]");
  }
  if (stepwise.any() && (keep.kind == KeepSpec::Kind::kHeads || keep.kind == KeepSpec::Kind::kLayers)) {
    source.fail(node, key, "student: 'stepwise' goes to a layout that is known beforehand, and 'keep' is ", keep_text(keep),
                ", which is measured; none, a share or a list are known (retort layout measures one)");
  }
}

StudentSpec read_student(YamlSource& source, const YAML::Node& node) {
  StudentSpec student;
  YamlFields fields(source, node, "student", "student");
  read_mixer(source, fields, "student", student);
  read_layers(source, fields, student);
  read_keep(source, fields, student.keep);
  read_stepwise(source, fields, student.keep, student.stepwise);
  read_name(source, fields, "init", "init", kInits, student.init);
  fields.text("start", student.start);
  if (student.init == StudentInit::kRandom && student.start != "teacher") {
    source.fail(fields.take("init"), fields.key_of("init"), "student: 'init' is random, but all values come from 'start', ", student.start, "; remove one of them");
  }
  fields.finish();
  return student;
}

DataSpec read_data(YamlSource& source, const YAML::Node& node) {
  DataSpec data;
  YamlFields fields(source, node, "data", "data");
  if (fields.has("train")) read_sources(source, fields.take("train"), fields.key_of("train"), data.train);
  fields.number("held_out", data.held_out, 0, 0.9);
  fields.count("calibration_tokens", data.calibration_tokens, 256, kMostCalibrationTokens);
  fields.finish();
  return data;
}

// Adds what the stage does not say itself. The stage's own nodes stay, and with them their places in the file.
void add_defaults(YAML::Node stage, const YAML::Node& defaults) {
  std::vector<std::string> own;
  for (const auto& entry : stage) own.push_back(entry.first.IsScalar() ? entry.first.Scalar() : "");
  const bool own_budget = std::any_of(own.begin(), own.end(), is_budget);
  for (const auto& entry : defaults) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
    if (std::find(own.begin(), own.end(), name) != own.end() || (own_budget && is_budget(name))) continue;
    stage[name] = entry.second;
  }
}

void read_stages(YamlSource& source, const YAML::Node& root, Recipe& recipe) {
  const YAML::Node stages = root["stages"];
  const YAML::Node defaults = root["defaults"].IsDefined() ? root["defaults"] : YAML::Node(YAML::NodeType::Map);
  if (!defaults.IsMap()) return source.fail(defaults, "defaults", "'defaults' must be a mapping of stage keys");
  if (!stages.IsDefined()) return source.fail(root, "stages", "a recipe needs 'stages', a list");
  if (!stages.IsSequence()) return source.fail(stages, "stages", "'stages' must be a list (each entry starts with '- ')");
  for (const auto& node : stages) {
    if (!node.IsMap() || !node["name"] || !node["name"].IsScalar()) {
      return source.fail(node, "stages", "every stage is a mapping with a 'name'");
    }
    const std::string name = node["name"].Scalar();
    const bool clean = !name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == std::string::npos;
    if (!clean || name == "student" || name == "data" || name == "defaults") {
      return source.fail(node["name"], "stages", "'", name, "' cannot be the name of a stage: use letters, digits, '-' and '_'");
    }
    for (const auto& other : recipe.stages) {
      if (other.name == name) return source.fail(node["name"], "stages", "two stages are called '", name, "'");
    }
    add_defaults(node, defaults);
    recipe.stages.push_back(read_stage(source, node, name));
    if (!source.status.ok()) return;
  }
}

// Sets root.a.b.c = value; sections that are missing on the way are made.
Status set_path(YAML::Node node, std::span<const std::string> path, const YAML::Node& value, const Override& change) {
  if (!node.IsMap() && !node.IsNull()) return invalid(change.flag, ": '", path.front(), "' is inside something that holds no keys");
  if (path.size() == 1) {
    node[path.front()] = value;
    return {};
  }
  if (!node[path.front()]) node[path.front()] = YAML::Node(YAML::NodeType::Map);
  YAML::Node child = node[path.front()];
  return set_path(child, path.subspan(1), value, change);
}

// A budget that a flag gives replaces the stage's other budgets.
void drop_other_budgets(YAML::Node stage, const std::string& given) {
  for (const char* name : kBudgets) {
    if (given != name) stage.remove(name);
  }
}

Status apply(YAML::Node& root, const Override& change) {
  std::vector<std::string> path;
  std::stringstream split(change.key);
  for (std::string piece; std::getline(split, piece, '.');) path.push_back(piece);
  if (path.empty() || std::any_of(path.begin(), path.end(), [](const auto& p) { return p.empty(); })) {
    return invalid(change.flag, ": expected stage.key=value, student.key=value or key=value");
  }
  YAML::Node value;
  try {
    value = YAML::Load(change.value);
  } catch (const YAML::Exception& error) {
    return invalid(change.flag, ": the value is not YAML: ", error.msg);
  }
  // Fields are a mixer's own: another one starts from its defaults.
  if (change.key == "student.mixer" && root["student"].IsMap()) {
    const YAML::Node before = root["student"]["mixer"];
    if (!before || !before.IsScalar() || before.Scalar() != change.value) root["student"].remove("config");
  }
  if (path.size() == 1 || path[0] == "student" || path[0] == "data" || path[0] == "defaults") return set_path(root, path, value, change);
  std::vector<std::string> names = {"student", "data", "defaults"};
  for (auto stage : root["stages"]) {
    if (!stage.IsMap() || !stage["name"] || !stage["name"].IsScalar()) continue;
    names.push_back(stage["name"].Scalar());
    if (names.back() != path[0]) continue;
    if (path.size() == 2 && is_budget(path[1])) drop_other_budgets(stage, path[1]);
    return set_path(stage, std::span(path).subspan(1), value, change);
  }
  return invalid(change.flag, ": unknown stage '", path[0], "'", suggestion(path[0], names));
}

Result<Recipe> read_recipe(const std::string& text, const std::string& path, const std::vector<Override>& overrides) {
  YAML::Node root = YAML::Load(text);
  if (!root.IsMap()) return invalid(path, ":1: a recipe is a mapping with 'name', 'student', 'data' and 'stages'");
  YamlSource source{path, {}, {}};
  for (const auto& change : overrides) {
    RETORT_RETURN_IF_ERROR(apply(root, change));
    source.overridden.emplace_back(change.key, change.flag);
  }
  Recipe recipe;
  recipe.path = path;
  YamlFields fields(source, root, "", "recipe");
  fields.text("name", recipe.name);
  fields.seed("seed", recipe.seed);
  fields.flag("save_init", recipe.save_init);
  fields.number("checkpoint_minutes", recipe.checkpoint_minutes, 0, 1e6);
  if (!fields.has("name")) source.fail(root, "name", "a recipe needs a 'name'");
  fields.has("defaults");
  fields.has("stages");
  const YAML::Node student = fields.take("student"), data = fields.take("data");
  fields.finish();
  if (source.status.ok()) recipe.student = read_student(source, student.IsDefined() ? student : YAML::Node(YAML::NodeType::Map));
  if (source.status.ok()) recipe.data = read_data(source, data.IsDefined() ? data : YAML::Node(YAML::NodeType::Map));
  if (source.status.ok()) read_stages(source, root, recipe);
  RETORT_RETURN_IF_ERROR(source.status);
  return recipe;
}

}  // namespace

const char* loss_name(LossKind kind) { return name_of(kLosses, kind); }

const char* form_name(LossForm form) {
  if (form == LossForm::kHard) return "hard";
  if (form == LossForm::kFrobenius) return name_of(kMatrixForms, form);
  if (form == LossForm::kSigmoid) return "sigmoid";
  const bool logits = form == LossForm::kKl || form == LossForm::kSoftCe;
  return name_of(logits ? std::span<const Named>(kLogitForms) : std::span<const Named>(kLayerForms), form);
}

const char* schedule_name(ScheduleKind kind) { return name_of(kSchedules, kind); }

bool StageSpec::layer_wise() const {
  return std::all_of(losses.begin(), losses.end(), [](const LossSpec& l) { return is_layer_loss(l.kind); });
}

std::vector<double> weights_of(const std::vector<DataSource>& sources) {
  std::vector<double> out;
  if (std::none_of(sources.begin(), sources.end(), [](const DataSource& s) { return s.weight > 0; })) return out;
  for (const auto& source : sources) out.push_back(source.weight > 0 ? source.weight : 1);
  return out;
}

const LossSpec* StageSpec::find(LossKind kind) const {
  for (const auto& loss : losses) {
    if (loss.kind == kind) return &loss;
  }
  return nullptr;
}

Result<Recipe> parse_recipe(const std::string& text, const std::string& path, const std::vector<Override>& overrides) {
  try {
    return read_recipe(text, path, overrides);
  } catch (const YAML::Exception& error) {
    return invalid(path, ":", error.mark.line + 1, ": not YAML: ", error.msg);
  }
}

Result<Recipe> load_recipe(const std::string& path, const std::vector<Override>& overrides) {
  RETORT_TRY(const auto text, read_text_file(path, size_t{1} << 20));
  return parse_recipe(text, path, overrides);
}

bool trains(const StageSpec& stage, const std::string& tensor, TrainGroup group) {
  const auto has = [&](const char* piece) { return tensor.find(piece) != std::string::npos; };
  const bool mixer = has(".mixer."), norm = has("layernorm.") || tensor == "model.norm.weight";
  return std::any_of(stage.train.begin(), stage.train.end(), [&](const std::string& pattern) {
    if (pattern == "all") return true;
    if (pattern == "mixers") return mixer;
    if (pattern == "projections") return mixer && group == TrainGroup::kProjection;
    if (pattern == "features") return mixer && group == TrainGroup::kFeature;
    if (pattern == "gates") return mixer && group == TrainGroup::kGate;
    if (pattern == "attention") return has(".self_attn.");
    if (pattern == "mlp") return has(".mlp.");
    if (pattern == "norms") return norm;
    if (pattern == "embeddings") return has("embed_tokens.") || has("lm_head.");
    return fnmatch(pattern.c_str(), tensor.c_str(), 0) == 0;
  });
}

}  // namespace retort::train
