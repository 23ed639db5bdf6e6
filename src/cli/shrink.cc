// retort shrink MODEL --layers 4 --out FOLDER: a small model of some of a model's layers, to be fine-tuned as a draft (recipes/draft.yaml).
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <numeric>

#include "base/format.h"
#include "base/interrupt.h"
#include "base/number_list.h"
#include "base/path.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/flags.h"
#include "cli/output.h"
#include "io/hf_writer.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"

namespace retort::cli {
namespace {

// `count` of `all` layers; of even ones the first is layer 0 and the last the last, as in the drafts of "Mamba in the Llama".
std::vector<int> pick_layers(const std::string& pick, int count, int all) {
  std::vector<int> out(size_t(count), 0);
  std::iota(out.begin(), out.end(), pick == "last" ? all - count : 0);
  if (pick == "even" && count > 1) {
    for (int i = 0; i < count; ++i) out[size_t(i)] = int(int64_t(i) * (all - 1) / (count - 1));
  }
  return out;
}

ModelConfig cut_down(const ModelConfig& model, const std::vector<int>& layers) {
  ModelConfig out = model;
  out.layers = int(layers.size());
  out.plan.clear();
  for (int l : layers) out.plan.push_back(model.plan[size_t(l)]);
  if (out.provenance.is_object()) out.provenance["shrunk_to_layers"] = layers;
  return out;
}

// "model.layers.1.mlp.up_proj.weight" -> that of the model's layer `layers[1]`; names outside the layers stay.
std::string source_name(const std::string& name, const std::vector<int>& layers) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (name.rfind(kPrefix, 0) != 0) return name;
  const size_t dot = name.find('.', kPrefix.size());
  const auto layer = size_t(std::stoi(name.substr(kPrefix.size(), dot - kPrefix.size())));
  return cat(kPrefix, layers[layer], name.substr(dot));
}

// What loses nothing, for all matrices of the small model. Blocks of few bits have no such type in a folder: bf16, as students are written.
Result<TensorType> type_of_matrices(const ModelFiles& files) {
  std::optional<TensorType> found;
  for (const TensorSpec& spec : model_tensors(files.config)) {
    if (spec.floor == Precision::kF32) continue;
    RETORT_TRY(const TensorView view, files.weights->tensor(spec.name));
    const bool is_float = view.type == TensorType::kF32 || view.type == TensorType::kF16 || view.type == TensorType::kBF16;
    const TensorType type = is_float ? view.type : TensorType::kBF16;
    found = !found || *found == type ? type : TensorType::kF32;
  }
  return found.value_or(TensorType::kF32);
}

class Shrink : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_);
    app.add_option("--layers", layers_, "how many layers, such as 4, or which: 0,10,20-22");
    app.add_option("--pick", pick_, "of a number of layers: the first ones, the last ones, or evenly from the first to the last (default)")
        ->check(CLI::IsMember({"first", "last", "even"}));
    app.add_option("-o,--out", out_, "the folder to write");
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_));
    RETORT_RETURN_IF_ERROR(check_out());
    RETORT_TRY(const ModelFiles files, open_model(model_));
    RETORT_TRY(const auto layers, chosen_layers(files.config.layers));
    RETORT_TRY(const TensorType dtype, type_of_matrices(files));
    RETORT_TRY(auto tokenizer, read_tokenizer_files(files));
    if (tokenizer.count("tokenizer.json")) {  // what is written must run
      if (auto opened = open_tokenizer(files); !opened.ok()) return opened.error();
    }
    catch_interrupts();
    const ModelConfig config = cut_down(files.config, layers);
    Progress progress("shrink", int64_t(model_tensors(config).size()));
    int64_t parameters = 0, done = 0;
    HfFolder folder{config, dtype, {}, std::move(tokenizer)};
    folder.values = [&](const TensorSpec& spec) -> Result<std::vector<float>> {
      if (interrupted()) return interrupted_error();
      RETORT_TRY(const TensorView view, files.weights->tensor(source_name(spec.name, layers)));
      if (const Status finite = check_finite(view); !finite.ok()) return invalid(model_, ": ", finite.error().message);
      parameters += view.count();
      progress.update(++done, spec.name);
      return read_f32(view);
    };
    RETORT_RETURN_IF_ERROR(write_hf_folder(out_, folder));
    progress.finish();
    print(context, layers, files.config.layers, parameters, dtype);
    return {};
  }

 private:
  Status check_out() {
    if (out_.empty()) return invalid("no --out: name the folder to write");
    out_ = without_trailing_slashes(out_);
    std::error_code failed;
    if (path_exists(out_) && !is_folder(out_)) return invalid("--out ", out_, ": a file; name a folder");
    if (is_folder(out_) && !std::filesystem::is_empty(out_, failed)) return invalid("--out ", out_, ": not empty; name a new folder");
    return {};
  }

  Result<std::vector<int>> chosen_layers(int all) const {
    const std::string example = "expected a number, such as 4, or which layers, such as 0,10,20-22";
    if (layers_.empty()) return invalid("no --layers: ", example);
    const auto listed = parse_number_list(layers_);
    if (!listed) return invalid("--layers ", layers_, ": ", example);
    if (layers_.find_first_of(",-") == std::string::npos) {
      const int count = listed->front();
      if (count < 1) return invalid("--layers ", layers_, ": a model has one layer at least");
      if (count > all) return invalid("--layers ", layers_, ": ", model_, " has ", all, " layers");
      return pick_layers(pick_.empty() ? "even" : pick_, count, all);
    }
    if (!pick_.empty()) return invalid("--pick ", pick_, ": --layers ", layers_, " says which; give --pick with a number of layers");
    for (size_t i = 0; i < listed->size(); ++i) {
      const int layer = (*listed)[i];
      if (layer >= all) return invalid("--layers ", layers_, ": there is no layer ", layer, "; ", model_, " has layers 0 to ", all - 1);
      if (i > 0 && layer <= (*listed)[i - 1]) {
        return invalid("--layers ", layers_, ": layer ", layer, " after layer ", (*listed)[i - 1], "; expected rising numbers, each once");
      }
    }
    return *listed;
  }

  void print(const Context& context, const std::vector<int>& layers, int all, int64_t parameters, TensorType dtype) const {
    if (context.json) {
      return print_json({{"out", out_}, {"layers", layers}, {"layers_of", all}, {"parameters", parameters}, {"dtype", dtype_name(dtype)}});
    }
    std::string names;
    for (int l : layers) names += (names.empty() ? "" : ", ") + std::to_string(l);
    std::printf("%s: layer%s %s of %d, %s parameters, %s\n", out_.c_str(), layers.size() > 1 ? "s" : "", names.c_str(), all,
                format_count(parameters).c_str(), dtype_name(dtype));
  }

  std::string model_, out_, layers_, pick_;
};

}  // namespace

std::unique_ptr<Command> make_shrink() { return std::make_unique<Shrink>(); }

}  // namespace retort::cli
