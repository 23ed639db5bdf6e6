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

// Tensors of which every rank has a piece.
class Pieces {
 public:
  static Result<Pieces> of(const std::vector<StateTensor>& tensors, ProcessGroup& group) {
    Pieces out(tensors, group);
    std::vector<int64_t> own;
    for (const auto& tensor : tensors) own.push_back(int64_t(tensor.values.size()));
    out.sizes_.resize(own.size() * size_t(group.size()));
    RETORT_RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span<const int64_t>(own)), std::as_writable_bytes(std::span<int64_t>(out.sizes_))));
    return out;
  }

  int64_t whole(size_t i) const {
    int64_t sum = 0;
    for (int r = 0; r < group_.size(); ++r) sum += size(r, i);
    return sum;
  }

  // Tensor i as rank 0 has it then.
  Status collect(size_t i, std::vector<float>& whole) const {
    const auto& mine = tensors_[i].values;
    if (!group_.leads()) return mine.empty() ? Status() : group_.send(0, std::as_bytes(mine));
    whole.assign(mine.begin(), mine.end());
    for (int r = 1; r < group_.size(); ++r) {
      std::vector<float> piece(size_t(size(r, i)));
      if (piece.empty()) continue;
      RETORT_RETURN_IF_ERROR(group_.receive(r, std::as_writable_bytes(std::span<float>(piece))));
      whole.insert(whole.end(), piece.begin(), piece.end());
    }
    return {};
  }

  // Rank 0's bytes of tensor i, to all ranks.
  Status deal(size_t i, const std::byte* whole) const {
    const auto mine = std::as_writable_bytes(tensors_[i].values);
    if (!group_.leads()) return mine.empty() ? Status() : group_.receive(0, mine);
    std::memcpy(mine.data(), whole, mine.size());
    const std::byte* next = whole + mine.size();
    for (int r = 1; r < group_.size(); ++r) {
      const size_t bytes = size_t(size(r, i)) * sizeof(float);
      if (bytes > 0) RETORT_RETURN_IF_ERROR(group_.send(r, {next, bytes}));
      next += bytes;
    }
    return {};
  }

 private:
  Pieces(const std::vector<StateTensor>& tensors, ProcessGroup& group) : tensors_(tensors), group_(group) {}
  int64_t size(int rank, size_t i) const { return sizes_[size_t(rank) * tensors_.size() + i]; }

  const std::vector<StateTensor>& tensors_;
  ProcessGroup& group_;
  std::vector<int64_t> sizes_;   // [ranks][tensors]
};

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

Status Checkpoint::load(const std::vector<StateTensor>& into, ProcessGroup& group) const {
  RETORT_TRY(const Pieces pieces, Pieces::of(into, group));
  const std::byte* whole = nullptr;
  return led(group, [&](const Together& ask) -> Status {
    for (size_t i = 0; i < into.size(); ++i) {
      const auto found = tensors.find(into[i].name);
      if (found == tensors.end()) return invalid(folder, ": tensor '", into[i].name, "' is missing");
      const auto& saved = found->second;
      const size_t expected = size_t(pieces.whole(i)) * sizeof(float);
      if (saved.dtype != "F32" || saved.bytes.size() != expected) {
        return invalid(folder, ": tensor '", into[i].name, "' has ", saved.bytes.size(), " bytes; expected ", expected);
      }
      whole = saved.bytes.data();
      RETORT_RETURN_IF_ERROR(ask(int64_t(i)));
    }
    return {};
  }, [&](int64_t i) { return pieces.deal(size_t(i), whole); });
}

Status save_checkpoint(const std::string& run, int64_t run_step, const nlohmann::json& state, const std::vector<StateTensor>& tensors,
                       ProcessGroup& group) {
  RETORT_TRY(const Pieces pieces, Pieces::of(tensors, group));
  std::vector<float> whole;   // of one tensor; on rank 0
  return led(group, [&](const Together& ask) -> Status {
    RETORT_TRY(auto folder, AtomicFolder::create(path_of(run, run_step)));
    std::vector<SafeTensorSource> sources;
    for (size_t i = 0; i < tensors.size(); ++i) {
      sources.push_back({tensors[i].name, "F32", {pieces.whole(i)}, [&ask, &whole, i]() -> Result<std::vector<std::byte>> {
                           RETORT_RETURN_IF_ERROR(ask(int64_t(i)));
                           const auto bytes = std::as_bytes(std::span<const float>(whole));
                           return std::vector<std::byte>(bytes.begin(), bytes.end());
                         }});
    }
    RETORT_RETURN_IF_ERROR(write_safetensors(folder.path() + "/tensors.safetensors", sources));
    RETORT_RETURN_IF_ERROR(write_text_file(folder.path() + "/state.json", state.dump(1) + "\n"));
    RETORT_RETURN_IF_ERROR(folder.commit());
    auto steps = steps_in(run);
    for (size_t i = 0; i + kKept < steps.size(); ++i) {
      std::error_code ignored;
      fs::remove_all(path_of(run, steps[i]), ignored);
    }
    return {};
  }, [&](int64_t i) { return pieces.collect(size_t(i), whole); });
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
