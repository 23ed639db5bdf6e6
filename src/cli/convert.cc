#include <cstdio>
#include <filesystem>

#include "base/format.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "io/hf_writer.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"

namespace retort::cli {
namespace {

Result<TensorType> parse_dtype(const std::string& name) {
  if (name == "f32") return TensorType::kF32;
  if (name == "bf16") return TensorType::kBF16;
  if (name == "f16") return TensorType::kF16;
  return invalid("--dtype ", name, ": expected f32, bf16 or f16");
}

// A folder keeps its tokenizer's files; what a GGUF embeds becomes the same two files.
Result<std::map<std::string, std::string>> tokenizer_files(const ModelFiles& files) {
  if (files.kind == ModelFiles::Kind::kHuggingFace) return read_tokenizer_files(files.path);
  RETORT_TRY(const auto tokenizer, tokenizer_from_gguf(*files.gguf));
  auto json = tokenizer.to_json();
  return std::map<std::string, std::string>{{"tokenizer.json", std::move(json.tokenizer_json)},
                                            {"tokenizer_config.json", std::move(json.tokenizer_config_json)}};
}

class Convert : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_);
    app.add_option("--to", format_, "what to write: hf, a Hugging Face folder with safetensors")->capture_default_str();
    app.add_option("-o,--out", out_, "the folder to write");
    app.add_option("--dtype", dtype_, "what matrices are stored as: f32, bf16 or f16; norms and gates stay f32")->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_));
    if (format_ != "hf") return invalid("--to ", format_, ": expected hf (nothing else can be written)");
    if (out_.empty()) return invalid("no --out: name the folder to write");
    RETORT_TRY(const auto dtype, parse_dtype(dtype_));
    RETORT_TRY(const auto files, open_model(model_));
    out_ = std::filesystem::path(out_).lexically_normal().string();  // MODEL/new/.. is MODEL
    while (out_.size() > 1 && out_.back() == '/') out_.pop_back();
    std::error_code failed;
    if (std::filesystem::exists(out_, failed) && std::filesystem::equivalent(out_, model_, failed)) {
      return invalid("--out ", out_, " is the model itself; name another folder");
    }
    HfFolder folder;
    folder.config = files.config;
    folder.matrices = dtype;
    RETORT_TRY(folder.extra_files, tokenizer_files(files));
    if (folder.extra_files.count("tokenizer.json")) {
      if (auto tokenizer = open_tokenizer(files); !tokenizer.ok()) return tokenizer.error();  // what is written must run
    }
    catch_interrupts();
    int64_t done = 0, parameters = 0;
    Progress progress("convert", int64_t(model_tensors(files.config).size()));
    folder.values = [&](const TensorSpec& spec) -> Result<std::vector<float>> {
      if (interrupted()) return interrupted_error();
      RETORT_TRY(const auto view, files.weights->tensor(spec.name));
      parameters += view.count();
      progress.update(++done, spec.name);
      return read_f32(view);
    };
    RETORT_RETURN_IF_ERROR(write_hf_folder(out_, folder));
    progress.finish();
    if (context.json) print_json({{"out", out_}, {"format", "hf"}, {"dtype", dtype_}, {"parameters", parameters}, {"fingerprint", fingerprint(files.config)}});
    else std::printf("%s: %s parameters, %s\n", out_.c_str(), format_count(parameters).c_str(), dtype_.c_str());
    return {};
  }

 private:
  std::string model_, out_, format_ = "hf", dtype_ = "f32";
};

}  // namespace

std::unique_ptr<Command> make_convert() { return std::make_unique<Convert>(); }

}  // namespace retort::cli
