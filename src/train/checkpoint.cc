#include "train/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace retort::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "step-";
constexpr size_t kKept = 2;

std::string checkpoints_of(const std::string& run) { return run + "/checkpoints"; }

// Step numbers of complete checkpoints, oldest first.
std::vector<int64_t> steps_in(const std::string& run) {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(kPrefix, 0) != 0) continue;
    const std::string digits = name.substr(std::strlen(kPrefix));
    if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    steps.push_back(std::stoll(digits));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string path_of(const std::string& run, int64_t step) { return cat(checkpoints_of(run), "/", kPrefix, step); }

SafeTensorSource source_of(const StateTensor& tensor) {
  const auto values = tensor.values;
  return {tensor.name, "F32", {int64_t(values.size())}, [values]() -> Result<std::vector<std::byte>> {
            const auto bytes = std::as_bytes(values);
            return std::vector<std::byte>(bytes.begin(), bytes.end());
          }};
}

Status read_checkpoint(Checkpoint& checkpoint) {
  RETORT_TRY(const auto text, read_text_file(checkpoint.folder + "/state.json"));
  checkpoint.state = nlohmann::json::parse(text, nullptr, false);
  if (!checkpoint.state.is_object()) return invalid(checkpoint.folder, "/state.json: not a JSON object");
  RETORT_TRY(auto file, SafetensorsFile::open(checkpoint.folder + "/tensors.safetensors"));
  checkpoint.file = std::make_shared<const SafetensorsFile>(std::move(file));
  checkpoint.tensors = checkpoint.file->tensors();
  return {};
}

}  // namespace

Error Checkpoint::damaged(Error error) const {
  if (error.code == ErrorCode::kInvalidInput) {
    error.message += cat("; remove ", folder, others ? " to go on from the checkpoint before it" : " and start without --resume");
  }
  return error;
}

Status Checkpoint::load(const std::vector<StateTensor>& into) const {
  for (const auto& tensor : into) {
    const auto found = tensors.find(tensor.name);
    if (found == tensors.end()) return invalid(folder, ": tensor '", tensor.name, "' is missing");
    const auto& saved = found->second;
    if (saved.dtype != "F32" || saved.bytes.size() != tensor.values.size() * sizeof(float)) {
      return invalid(folder, ": tensor '", tensor.name, "' has ", saved.bytes.size(), " bytes; expected ", tensor.values.size() * sizeof(float));
    }
    std::memcpy(tensor.values.data(), saved.bytes.data(), saved.bytes.size());
  }
  return {};
}

Status save_checkpoint(const std::string& run, int64_t run_step, const nlohmann::json& state, const std::vector<StateTensor>& tensors) {
  RETORT_TRY(auto folder, AtomicFolder::create(path_of(run, run_step)));
  std::vector<SafeTensorSource> sources;
  for (const auto& tensor : tensors) sources.push_back(source_of(tensor));
  RETORT_RETURN_IF_ERROR(write_safetensors(folder.path() + "/tensors.safetensors", sources));
  RETORT_RETURN_IF_ERROR(write_text_file(folder.path() + "/state.json", state.dump(1) + "\n"));
  RETORT_RETURN_IF_ERROR(folder.commit());
  auto steps = steps_in(run);
  for (size_t i = 0; i + kKept < steps.size(); ++i) {
    std::error_code ignored;
    fs::remove_all(path_of(run, steps[i]), ignored);
  }
  return {};
}

Result<std::optional<Checkpoint>> newest_checkpoint(const std::string& run) {
  const auto steps = steps_in(run);
  if (steps.empty()) return std::optional<Checkpoint>();
  Checkpoint checkpoint;
  checkpoint.folder = path_of(run, steps.back());
  checkpoint.others = steps.size() > 1;
  if (auto status = read_checkpoint(checkpoint); !status.ok()) return checkpoint.damaged(status.error());
  return std::optional<Checkpoint>(std::move(checkpoint));
}

void remove_checkpoints(const std::string& run) {
  std::error_code ignored;
  fs::remove_all(checkpoints_of(run), ignored);
}

}  // namespace retort::train
