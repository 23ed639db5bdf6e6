#include <cstdio>
#include <filesystem>
#include <set>

#include "base/format.h"
#include "base/interrupt.h"
#include "base/path.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/output.h"
#include "io/export/targets.h"
#include "io/hf_writer.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"

namespace retort::cli {
namespace {

struct Dtype {
  const char* name;
  TensorType type;
  bool gguf_only;
};
constexpr Dtype kDtypes[] = {{"f32", TensorType::kF32, false},  {"bf16", TensorType::kBF16, false}, {"f16", TensorType::kF16, false},
                             {"q8_0", TensorType::kQ8_0, true}, {"q4_0", TensorType::kQ4_0, true},  {"q4_1", TensorType::kQ4_1, true}};

Result<TensorType> parse_dtype(const std::string& name, bool gguf) {
  for (const Dtype& d : kDtypes) {
    if (name == d.name && (gguf || !d.gguf_only)) return d.type;
  }
  return invalid("--dtype ", name, ": expected ", gguf ? "f32, bf16, f16, q8_0, q4_0 or q4_1" : "f32, bf16 or f16 (q8_0, q4_0 and q4_1 with --to gguf)");
}

std::string target_help() {
  std::string out = "hf, Retort's own Hugging Face folder (a transformer's is its teacher's)";
  for (const ExportTarget& target : export_targets()) out += cat("; ", target.name, ", ", target.summary);
  return out + " (docs/export.md says what fits where)";
}

std::string target_names() {
  std::string out = "hf";
  for (const ExportTarget& target : export_targets()) out += cat(", ", target.name);
  return out;
}

class Convert : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_);
    app.add_option("--to", format_, "what to write: " + target_help())->capture_default_str();
    app.add_option("-o,--out", out_, "the folder or .gguf file to write");
    app.add_option("--dtype", dtype_, "what matrices are stored as: f32, bf16, f16, and in a GGUF q8_0, q4_0, q4_1; norms and gates stay f32")
        ->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_));
    const ExportTarget* target = find_export_target(format_);
    if (!target && format_ != "hf") return invalid("--to ", format_, ": expected one of ", target_names());
    if (out_.empty()) return invalid("no --out: name ", target && target->gguf ? "the .gguf file" : "the folder", " to write");
    RETORT_TRY(const auto dtype, parse_dtype(dtype_, target && target->gguf));
    RETORT_TRY(const auto files, open_model(model_));
    out_ = std::filesystem::path(out_).lexically_normal().string();  // MODEL/new/.. is MODEL
    while (out_.size() > 1 && out_.back() == '/') out_.pop_back();
    std::error_code failed;
    if (path_exists(out_) && std::filesystem::equivalent(out_, model_, failed)) {
      return invalid("--out ", out_, " is the model itself; name another");
    }
    RETORT_TRY(auto extra_files, read_tokenizer_files(files));
    std::optional<Tokenizer> tokenizer;
    if (extra_files.count("tokenizer.json")) {
      RETORT_TRY(tokenizer, open_tokenizer(files));  // what is written must run
    }
    catch_interrupts();
    Progress progress("convert", int64_t(model_tensors(files.config).size()));
    std::set<std::string> done;
    int64_t parameters = 0;
    const auto values = [&](const std::string& name) -> Result<std::vector<float>> {
      if (interrupted()) return interrupted_error();
      RETORT_TRY(const auto view, files.weights->tensor(name));
      if (const Status finite = check_finite(view); !finite.ok()) return invalid(model_, ": ", finite.error().message);
      if (done.insert(name).second) parameters += view.count();
      progress.update(int64_t(done.size()), name);
      return read_f32(view);
    };
    WrittenExport written;
    if (target) {
      RETORT_TRY(written, write_export(out_, *target, files.config, values, {dtype, std::move(extra_files), std::move(tokenizer)}));
    } else {
      HfFolder folder{files.config, dtype, [&](const TensorSpec& spec) { return values(spec.name); }, std::move(extra_files)};
      RETORT_RETURN_IF_ERROR(write_hf_folder(out_, folder));
    }
    progress.finish();
    for (const auto& note : written.notes) std::fprintf(stderr, "retort: warning: %s\n", note.c_str());
    if (context.json) print_json({{"out", out_}, {"format", format_}, {"dtype", dtype_}, {"parameters", parameters}, {"fingerprint", fingerprint(files.config)}});
    else std::printf("%s: %s parameters, %s\n", out_.c_str(), format_count(parameters).c_str(), dtype_.c_str());
    return {};
  }

 private:
  std::string model_, out_, format_ = "hf", dtype_ = "f32";
};

}  // namespace

std::unique_ptr<Command> make_convert() { return std::make_unique<Convert>(); }

}  // namespace retort::cli
