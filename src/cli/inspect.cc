#include <algorithm>
#include <cstdio>
#include <map>

#include "base/format.h"
#include "base/mapped_file.h"
#include "cli/command.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "eval/layer_match.h"
#include "io/model_files.h"
#include "mixers/list.h"
#include "mixers/probe_ops.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;

// As the runtime keeps them: what has a fixed size in fp32, the growing cache of full attention in bf16.
int64_t number_bytes(const StateSlot& slot) { return slot.kind == StateSlot::Kind::kCache && slot.rows < 0 ? 2 : 4; }

struct Growth {
  int64_t fixed = 0, per_token = 0;  // bytes
  int64_t at(int64_t context) const { return fixed + per_token * context; }
};

Growth part_growth(const ModelConfig& config, const Part& part) {
  Growth growth;
  for (const auto& slot : part_states(config, part)) {
    const bool grows = slot.kind == StateSlot::Kind::kCache && slot.rows < 0;
    (grows ? growth.per_token : growth.fixed) += number_bytes(slot) * (grows ? slot.columns : slot.numbers(slot.rows));
  }
  return growth;
}

Growth model_growth(const ModelConfig& config) {
  Growth sum;
  for (const auto& layer : config.plan) {
    for (const auto& part : layer.parts) {
      const auto growth = part_growth(config, part);
      sum.fixed += growth.fixed;
      sum.per_token += growth.per_token;
    }
  }
  return sum;
}

int64_t parameter_count(const std::vector<TensorSpec>& table) {
  int64_t count = 0;
  for (const auto& spec : table) count += spec.count();
  return count;
}

std::string window_text(const WindowConfig& window) {
  return window.size == 0 ? "" : cat(window.size, "+", window.sinks);
}

std::string heads_text(const std::vector<int>& heads) {
  std::string out;
  for (int head : heads) out += cat(out.empty() ? "" : ",", head);
  return out;
}

std::string fields_text(const nlohmann::json& fields) {
  std::string out;
  for (const auto& [name, value] : fields.items()) out += cat(out.empty() ? "" : " ", name, "=", value.dump());
  return out;
}

Json part_json(const ModelConfig& config, const Part& part) {
  const auto growth = part_growth(config, part);
  return {{"mixer", part.mixer},
          {"kv_heads", part.kv_heads},
          {"window", {{"size", part.window.size}, {"sinks", part.window.sinks}}},
          {"config", part.config},
          {"parameters", parameter_count(part_tensors(config, part))},
          {"state_bytes", growth.fixed},
          {"state_bytes_per_token", growth.per_token}};
}

// What --against reads when no text is given.
constexpr const char* kParagraph =
    "A river is older than the towns beside it, and it decides more than they do. In spring the water is high and brown; it carries "
    "branches, fence posts and once, in 1903, a whole bridge. In late summer the same river is so low that children cross it on stones. "
    "The mill at the second bend was built for the high water: its wheel stands still from July to October, and the miller keeps bees. "
    "When the bridge had gone, the miller said that the river had only taken back what it had lent. He is the ninth of his name at that bend, and "
    "the first who can swim. On winter evenings he writes down the height of the water, the colour of the sky and who came by; the oldest of these "
    "books is from 1811, and it begins, as they all do, with the height of the water. A school teacher from the town copied them one summer. He "
    "found that the high water comes four days earlier than it did, that nobody had ever come by on a Sunday in March, and that the bees are older "
    "than the mill. The bridge was built again, of iron, a little further down, where the river is wider and in less of a hurry.";

// Positions that a mixer's window sees, sinks included; 0: no mixer has one.
int64_t longest_window(const ModelConfig& config) {
  int64_t longest = 0;
  for (const LayerPlan& layer : config.plan) {
    for (const Part& part : layer.parts) {
      if (part.mixer != "window") longest = std::max<int64_t>(longest, part.window.size + part.window.sinks);
    }
  }
  return longest;
}

class Inspect : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_);
    app.add_option("--contexts", contexts_, "context lengths to give the state's size at")->delimiter(',')->check(CLI::Range(1, 1 << 30));
    app.add_option("--against", teacher_, "the teacher: how near each layer is to its, on a short text");
    app.add_option("--text,-f,--file", text_, "with --against: UTF-8 text to read instead of a built-in paragraph");
    app.add_option("--limit-tokens", limit_, "with --against: read only the first N tokens (default: enough to leave the longest window)")
        ->check(CLI::Range(1, 1024));
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_));
    if (teacher_.empty() && !text_.empty()) return invalid("inspect: --text goes with --against TEACHER");
    if (teacher_.empty() && limit_ > 0) return invalid("inspect: --limit-tokens goes with --against TEACHER");
    if (!teacher_.empty() && !contexts_.empty()) return invalid("inspect: --contexts is of the state's size, which --against does not show; ask for one at a time");
    RETORT_TRY(const auto files, open_model(model_));
    if (!teacher_.empty()) return match(files, context);
    RETORT_TRY(const auto weights, weight_bytes(files));
    if (context.json) print_json(document(files, weights));
    else print(files, weights);
    return {};
  }

 private:
  Status match(const ModelFiles& student, const Context& context) const {
    RETORT_TRY(const auto teacher, open_model(teacher_));
    RETORT_TRY(const auto tokenizer, open_tokenizer(teacher));
    std::string text = kParagraph;
    if (!text_.empty()) {
      RETORT_TRY(text, read_text_file(text_));
    }
    auto ids = tokenizer.encode(text, {.add_special = false, .parse_special = false});
    if (!ids.ok()) return invalid(text_, ": ", ids.error().message);
    if (ids->empty()) return invalid(text_, ": no tokens");
    const int64_t window = longest_window(student.config), limit = limit_ > 0 ? limit_ : std::clamp<int64_t>(window + 64, 64, 1024);
    std::vector<int> tokens(ids->begin(), ids->begin() + std::min<int64_t>(limit, int64_t(ids->size())));
    if (window > 0 && int64_t(tokens.size()) <= window) {
      std::fprintf(stderr, "retort: warning: %zu tokens never leave a window of %lld: what is behind it is not compared; give a longer --text\n",
                   tokens.size(), static_cast<long long>(window));
    }
    ThreadPool pool(context.threads);
    auto matches = match_layers(teacher, student, tokens, pool);
    if (!matches.ok()) return invalid(model_, " against ", teacher_, ": ", matches.error().message);
    if (context.json) print_json(match_document(student.config, *matches, int64_t(tokens.size())));
    else match_table(student.config, *matches).print();
    return {};
  }

  static std::string mixers_text(const LayerPlan& layer) {
    std::string out;
    for (const auto& part : layer.parts) {
      out += cat(out.empty() ? "" : " + ", part.mixer, part.window.size && part.mixer != "window" ? " joined with a window" : "");
    }
    return out;
  }

  Json match_document(const ModelConfig& c, const std::vector<LayerMatch>& matches, int64_t tokens) const {
    Json layers = Json::array();
    for (const LayerMatch& m : matches) {
      layers.push_back({{"layer", m.layer}, {"mixers", mixers_text(c.plan[size_t(m.layer)])}, {"output_error", m.output_error},
                        {"matrix_distance", m.matrix_distance}, {"matrix_norm", m.matrix_norm}});
    }
    const Json text = text_.empty() ? Json() : Json(text_);
    return {{"model", model_}, {"against", teacher_}, {"text", text}, {"tokens", tokens}, {"layers", layers}};
  }

  static Table match_table(const ModelConfig& c, const std::vector<LayerMatch>& matches) {
    Table table({"layer", "mixer", "output error", "matrix distance", "of the teacher's"});
    for (const LayerMatch& m : matches) {
      table.row({cat(m.layer), mixers_text(c.plan[size_t(m.layer)]), format_fixed(m.output_error, 4), format_fixed(m.matrix_distance, 3),
                 format_fixed(m.matrix_norm, 3)});
    }
    return table;
  }

  struct Weights {
    int64_t parameters = 0, bytes = 0;
    std::map<std::string, int64_t> by_type;
  };

  static Result<Weights> weight_bytes(const ModelFiles& files) {
    Weights weights;
    for (const auto& spec : model_tensors(files.config)) {
      RETORT_TRY(const auto view, files.weights->tensor(spec.name));
      weights.parameters += view.count();
      weights.bytes += view.bytes();
      weights.by_type[tensor_type_name(view.type)] += view.bytes();
    }
    return weights;
  }

  Json document(const ModelFiles& files, const Weights& weights) const {
    const auto& c = files.config;
    Json layers = Json::array(), states = Json::array();
    for (size_t i = 0; i < c.plan.size(); ++i) {
      Json parts = Json::array();
      for (const auto& part : c.plan[i].parts) parts.push_back(part_json(c, part));
      layers.push_back({{"layer", i}, {"parts", parts}});
    }
    const auto growth = model_growth(c);
    for (int64_t n : contexts()) states.push_back({{"context", n}, {"bytes", growth.at(n)}});
    return {{"model", model_},
            {"format", files.kind == ModelFiles::Kind::kGguf ? "gguf" : "hf"},
            {"name", c.name},
            {"family", c.family},
            {"layers", c.layers},
            {"width", c.width},
            {"heads", c.heads},
            {"kv_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"mlp_width", c.mlp_width},
            {"vocab_size", c.vocab_size},
            {"context_length", c.context_length},
            {"tie_embeddings", c.tie_embeddings},
            {"rope_base", c.rope.base},
            {"parameters", weights.parameters},
            {"weight_bytes", weights.bytes},
            {"weight_bytes_by_type", weights.by_type},
            {"layout", layout_string(c)},
            {"fingerprint", fingerprint(c)},
            {"state", {{"fixed_bytes", growth.fixed}, {"bytes_per_token", growth.per_token}, {"contexts", states}}},
            {"plan", layers},
            {"distill_config", c.provenance}};
  }

  void print(const ModelFiles& files, const Weights& weights) const {
    const auto& c = files.config;
    const auto line = [](const char* name, const std::string& value) { std::printf("%-12s %s\n", name, value.c_str()); };
    std::string types;
    for (const auto& [type, bytes] : weights.by_type) types += cat(types.empty() ? "" : ", ", type, " ", format_bytes(double(bytes)));
    line("model", cat(c.name.empty() ? model_ : c.name, " (", c.family, is_plain_transformer(c) ? "" : ", student", ")"));
    line("sizes", cat(c.layers, " layers, width ", c.width, ", ", c.heads, " heads of ", c.head_dim, ", ", c.kv_heads, " kv heads, MLP ",
                      c.mlp_width, ", vocabulary ", format_count(c.vocab_size), c.tie_embeddings ? ", tied" : ""));
    line("parameters", cat(format_count(weights.parameters), ", ", format_bytes(double(weights.bytes)), " (", types, ")"));
    line("layout", layout_string(c));
    line("fingerprint", fingerprint(c));
    const auto growth = model_growth(c);
    line("state", cat(format_bytes(double(growth.fixed)), " a sequence + ", format_bytes(double(growth.per_token)), " a token"));
    for (int64_t n : contexts()) line("", cat("at ", format_count(n), " tokens: ", format_bytes(double(growth.at(n)))));
    std::puts("");
    layer_table(c).print();
  }

  // Equal layers that follow one another share a row.
  static Table layer_table(const ModelConfig& c) {
    Table table({"layers", "mixer", "kv heads", "window", "parameters", "state", "per token", "fields"});
    for (size_t first = 0; first < c.plan.size();) {
      size_t last = first;
      while (last + 1 < c.plan.size() && c.plan[last + 1] == c.plan[first]) ++last;
      std::string label = last == first ? cat(first) : cat(first, "-", last);
      for (const auto& part : c.plan[first].parts) {
        const auto growth = part_growth(c, part);
        table.row({label, part.mixer, heads_text(part.kv_heads), window_text(part.window), format_count(parameter_count(part_tensors(c, part))),
                   format_bytes(double(growth.fixed)), format_bytes(double(growth.per_token)), fields_text(part.config)});
        label = "";
      }
      first = last + 1;
    }
    return table;
  }

  std::vector<int64_t> contexts() const { return contexts_.empty() ? std::vector<int64_t>{128, 2048, 8192, 32768} : contexts_; }

  std::string model_;
  std::vector<int64_t> contexts_;  // empty: a few
  std::string teacher_, text_;
  int64_t limit_ = 0;  // 0: as the windows need
};

}  // namespace

std::unique_ptr<Command> make_inspect() { return std::make_unique<Inspect>(); }

}  // namespace retort::cli
