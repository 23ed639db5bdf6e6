#include "train/second_teacher.h"

#include <algorithm>
#include <cstring>

#include "base/hash.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"

namespace retort::train {
namespace {

Error of_stage(const StageSpec& stage, const Error& error) {
  return {error.code, cat("stage '", stage.name, "', switch_teacher.to: ", error.message)};
}

}  // namespace

Result<std::string> hash_weights(const WeightStore& store) {
  uint64_t hash = kFnvStart;
  auto names = store.names();
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    RETORT_TRY(auto view, store.tensor(name));
    const auto* bytes = view.data;
    const int64_t size = view.bytes();
    hash = fnv1a(name, hash);
    int64_t i = 0;
    for (; i + 8 <= size; i += 8) {
      uint64_t word;
      std::memcpy(&word, bytes + i, 8);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
      hash ^= hash >> 29;
    }
    for (; i < size; ++i) hash = fnv1a_unit(uint8_t(bytes[i]), hash);
  }
  return hex(hash);
}

Result<ModelFiles> open_second_teacher(const ModelFiles& first, const std::string& path, int seq) {
  RETORT_TRY(auto files, open_model(path));
  if (!is_plain_transformer(files.config)) {
    return invalid(path, ": a student; a second teacher must be a softmax-attention model in every layer");
  }
  if (files.config.context_length > 0 && files.config.context_length < seq) {
    return invalid(path, ": a second teacher for rows of ", seq, " tokens; it was made for ", files.config.context_length);
  }
  RETORT_TRY(const auto ours, open_tokenizer(first));
  RETORT_TRY(const auto theirs, open_tokenizer(files));
  if (theirs.size() != ours.size()) {
    return invalid(path, ": its tokenizer has ", theirs.size(), " tokens, the first teacher's ", ours.size(), "; a second teacher needs the same tokens");
  }
  const auto tokens = int32_t(ours.size());
  for (int32_t id = 0; id < tokens; ++id) {
    if (theirs.token_text(id) == ours.token_text(id)) continue;
    return invalid(path, ": token ", id, " is '", theirs.token_text(id), "', the first teacher's '", ours.token_text(id),
                   "'; a second teacher needs the same tokens");
  }
  return files;
}

Result<std::string> second_teacher_hash(Backend& backend, const StageSpec& stage) {
  if (stage.switch_teacher.to.empty()) return std::string();
  auto checked = backend.check_second_teacher(stage.switch_teacher.to, stage.seq);
  if (!checked.ok()) return of_stage(stage, checked.error());
  return checked;
}

Status same_second_teacher(const StageSpec& stage, const std::string& now, const std::string& before) {
  if (now == before) return {};
  return of_stage(stage, invalid(stage.switch_teacher.to, " is not the second teacher this run began with (its hash is ", now, ", was ", before, ")"));
}

Result<ModelFiles> open_same_second_teacher(const ModelFiles& first, const StageSpec& stage, const std::string& before) {
  auto files = open_second_teacher(first, stage.switch_teacher.to, stage.seq);
  if (!files.ok()) return of_stage(stage, files.error());
  RETORT_TRY(const std::string now, hash_weights(*files->weights));
  RETORT_RETURN_IF_ERROR(same_second_teacher(stage, now, before));
  return files;
}

}  // namespace retort::train
