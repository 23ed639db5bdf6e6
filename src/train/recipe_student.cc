// The student: its mixers, layer by layer, and the attention that it keeps.
#include <algorithm>

#include "mixers/list.h"
#include "train/recipe_names.h"
#include "train/recipe_parts.h"

namespace retort::train {
namespace {

constexpr Named kInits[] = {{"teacher", int(StudentInit::kTeacher)}, {"random", int(StudentInit::kRandom)}};

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

}  // namespace

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

}  // namespace retort::train
