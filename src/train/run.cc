#include "train/run.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"
#include "train/stage_loop.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFinished = "train.json";
constexpr const char* kLock = ".lock";
constexpr const char* kOwnFiles[] = {"recipe.yaml", "recipe.json", "held_out.jsonl", "metrics.jsonl", "checkpoints", "student",
                                     "student-init", kFinished, "results.json", "report.html"};

// One process at a time works in a run folder. Held until the process ends.
class FolderLock {
 public:
  FolderLock() = default;
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  Status take(const std::string& folder) {
    const std::string path = folder + "/" + kLock;
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) return io_error("cannot write ", path, ": ", std::strerror(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return {};
    return errno == EWOULDBLOCK ? Status(invalid(folder, ": another process is at work on this run")) : Status();  // no locks on this file system
  }

 private:
  int fd_ = -1;
};

void remove_own_files(const std::string& folder) {
  std::error_code ignored;
  for (const char* name : kOwnFiles) fs::remove_all(folder + "/" + name, ignored);
  std::vector<fs::path> events;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().rfind("events.out.tfevents.", 0) == 0) events.push_back(entry.path());
  }
  for (const auto& path : events) fs::remove(path, ignored);
}

// Nothing but what a run writes: all that is left when one was killed before it had really begun.
bool only_own_files(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const auto name = entry.path().filename().string();
    const bool own = std::find(std::begin(kOwnFiles), std::end(kOwnFiles), name) != std::end(kOwnFiles);
    if (!own && name != kLock && name.find(".tmp.") == std::string::npos) return false;
  }
  return true;
}

// Whether RUN may be written to, by the user's wishes.
Status check_folder(const RunOptions& options) {
  if (options.out.empty()) return invalid("no folder for the run: name one with --out");
  if (path_exists(options.out) && !is_folder(options.out)) return invalid(options.out, ": a file; --out names a folder");
  const bool run = path_exists(options.out + "/recipe.yaml");
  // A run that was killed before it had begun has left its lock: going on with it is starting it.
  if (options.resume && !run && !path_exists(options.out + "/" + kLock)) {
    return invalid(options.out, ": no run to go on with; without --resume a new one starts there");
  }
  if (!path_exists(options.out)) return {};
  if ((!run && only_own_files(options.out)) || (options.resume && run) || (options.overwrite && run)) return {};
  if (run) return invalid(options.out, ": a run is there already; --resume goes on with it, --overwrite starts anew");
  return invalid(options.out, ": not empty, and no run of retort; name another --out");
}

nlohmann::json plain(const Json& json) { return nlohmann::json::parse(json.dump()); }

// What the recipe keeps exists in this teacher. Asked before anything is computed.
Status check_keep(const KeepSpec& keep, const ModelConfig& teacher) {
  const int heads = teacher.layers * teacher.kv_heads;
  if (keep.kind == KeepSpec::Kind::kHeads && keep.count >= heads) {
    return invalid("recipe: student.keep is heads:", keep.count, "; the model has ", heads, " kv heads, and at least one must go");
  }
  if (keep.kind == KeepSpec::Kind::kLayers && keep.count >= teacher.layers) {
    return invalid("recipe: student.keep is layers:", keep.count, "; the model has ", teacher.layers, ", and at least one must go");
  }
  if (keep.kind != KeepSpec::Kind::kList) return {};
  for (const auto& [l, g] : keep.list) {
    if (l < 0 || l >= teacher.layers || g >= teacher.kv_heads) {
      return invalid("recipe: student.keep names ", l, g < 0 ? "" : cat(".", g), "; the model has layers 0 to ", teacher.layers - 1,
                     " with kv heads 0 to ", teacher.kv_heads - 1);
    }
  }
  return {};
}

// Rows longer than the teacher's context would teach what it never knew.
Status check_rows(const Recipe& recipe, const ModelConfig& teacher) {
  for (const auto& stage : recipe.stages) {
    if (teacher.context_length > 0 && stage.seq > teacher.context_length) {
      return invalid("recipe: ", stage.name, ".seq is ", stage.seq, "; the teacher was made for ", teacher.context_length, " tokens at most");
    }
  }
  return {};
}

// Every rank has as many rows of a batch as the others.
Status check_ranks(const Recipe& recipe, const ProcessGroup& group) {
  for (const auto& stage : recipe.stages) {
    if (stage.batch % group.size() == 0) continue;
    const int right = (stage.batch + group.size() - 1) / group.size() * group.size();
    return invalid("recipe: ", stage.name, ".batch is ", stage.batch, stage.compares_pairs() ? " pairs" : " rows", ", which ", group.size(),
                   " ranks cannot share alike; expected a multiple of ", group.size(), ", such as --set ", stage.name, ".batch=", right);
  }
  return {};
}

// What must not change between a run and its continuation. Texts are compared by content, wherever the files are now; their weights
// stay.
nlohmann::json comparable(nlohmann::json recipe) {
  if (!recipe.is_object()) return recipe;
  recipe.erase("checkpoint_minutes");
  if (recipe.contains("stages") && recipe["stages"].is_array()) {
    for (auto& stage : recipe["stages"]) {
      if (stage.is_object()) stage.erase("checkpoint_activations");   // memory for time: the numbers are the same
    }
  }
  if (!recipe.contains("data") || !recipe["data"].is_object()) return recipe;
  nlohmann::json& data = recipe["data"];
  const auto weighted = [](const nlohmann::json& source) { return source.is_object() && source.contains("weight"); };
  if (data.contains("train") && data["train"].is_array() && std::any_of(data["train"].begin(), data["train"].end(), weighted)) {
    for (const auto& source : data["train"]) data["weights"].push_back(weighted(source) ? source["weight"] : nlohmann::json(1.0));
  }
  data.erase("train");
  return recipe;
}

nlohmann::json comparable(const Recipe& recipe) { return comparable(plain(recipe_json(recipe))); }

// Stages that compare pairs find some.
Status check_pairs(const Recipe& recipe, const TrainingText& text) {
  const auto& documents = text.train();
  if (std::any_of(documents.begin(), documents.end(), [](const Document& d) { return d.is_pair(); })) return {};
  for (const auto& stage : recipe.stages) {
    if (stage.compares_pairs()) {
      return invalid("recipe: stage '", stage.name, "' compares answers, but no line of the data has \"prompt\", \"chosen\" and \"rejected\"");
    }
  }
  return {};
}

CalibrationText calibration_text(const Recipe& recipe, std::shared_ptr<const TrainingText> text, Encoders encode, int vocab_size) {
  auto calls = std::make_shared<uint64_t>(0);
  return [=, seed = recipe.seed](int rows, int seq) {
    return TokenStream(text, encode, {rows, seq, mix_seed(seed, 2, (*calls)++), 0, vocab_size}).next();
  };
}

Json start_json(const RunState& state) {
  Json out = {{"kept", state.kept}};
  if (state.start.is_object()) out["details"] = Json::parse(state.start.dump());
  return out;
}

Json stages_json(const RunState& state) {
  Json out = Json::array();
  for (const auto& stage : state.done) {
    out.push_back({{"name", stage.name}, {"steps", stage.steps}, {"skipped", stage.skipped}, {"tokens", stage.tokens},
                   {"seconds", stage.seconds}, {"tokens_per_s", stage.seconds > 0 ? double(stage.tokens) / stage.seconds : 0.0},
                   {"gemm_share", stage.compute_seconds > 0 ? stage.gemm_seconds / stage.compute_seconds : 0.0},
                   {"first_loss", stage.first_loss}, {"last_loss", stage.last_loss}});
  }
  return out;
}

class Run {
 public:
  Run(const Recipe& recipe, const RunOptions& options, const RunParts& parts)
      : recipe_(recipe), options_(options), parts_(parts), group_(options.group ? *options.group : one_process()), pool_(options.threads) {}

  Result<Json> run() {
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? check_folder(options_) : Status()));
    RETORT_TRY(const double finished, of_leader(group_, options_.resume && path_exists(path(kFinished))));
    if (finished != 0) return group_.leads() ? finished_before() : Json();
    RETORT_RETURN_IF_ERROR(agree(group_, open()));
    RETORT_RETURN_IF_ERROR(agree(group_, same_everywhere()));
    if (options_.resume) RETORT_RETURN_IF_ERROR(find_checkpoint());
    RETORT_RETURN_IF_ERROR(checkpoint_ ? resume() : begin());
    const auto status = train();
    if (!status.ok()) {
      // Before the first step there is nothing to go on with: leave no trace.
      if (made_folder_ && state_.run_step == 0 && status.error().code != ErrorCode::kInterrupted) abandon();
      const bool common = status.error().code == ErrorCode::kInvalidInput || status.error().code == ErrorCode::kInterrupted;
      if (common && !group_.leads()) return Error{status.error().code, ""};   // all ranks have it: rank 0 says it
      return status.error();
    }
    return finish();
  }

 private:
  // Rank 0 reads the newest checkpoint; the others learn from it what is in its state.json.
  Status find_checkpoint() {
    const auto find = [&]() -> Status {
      RETORT_TRY(checkpoint_, newest_checkpoint(options_.out));
      return {};
    };
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? find() : Status()));
    RETORT_TRY(const std::string state, of_leader(group_, checkpoint_ ? checkpoint_->state.dump() : std::string()));
    if (!group_.leads() && !state.empty()) {
      checkpoint_.emplace();
      checkpoint_->state = nlohmann::json::parse(state);
    }
    return {};
  }

  // All ranks have read the same teacher and the same text.
  Status same_everywhere() const {
    RETORT_TRY(const std::string teacher, of_leader(group_, backend_->teacher_hash()));
    RETORT_TRY(const std::string text, of_leader(group_, text_->hash()));
    if (teacher != backend_->teacher_hash()) return invalid("rank ", group_.rank(), ": ", options_.teacher, " is not the teacher of rank 0");
    if (text != text_->hash()) return invalid("rank ", group_.rank(), ": the training text is not that of rank 0");
    return {};
  }

  std::string path(const std::string& name) const { return options_.out + "/" + name; }

  Result<Json> finished_before() const {
    RETORT_TRY(const auto text, read_text_file(path(kFinished)));
    auto document = Json::parse(text, nullptr, false);
    if (!document.is_object()) return invalid(path(kFinished), ": not JSON; --overwrite starts the run anew");
    if (document.contains("recipe")) {
      RETORT_RETURN_IF_ERROR(same_recipe(comparable(plain(document["recipe"]))));
    }
    return document;
  }

  // `before` is comparable.
  Status same_recipe(const nlohmann::json& before) const {
    const auto difference = recipe_difference(before, comparable(recipe_));
    if (difference.empty()) return {};
    return invalid(options_.out, ": the recipe differs from the one this run began with: ", difference,
                   "; go on with the old one, or start anew with --overwrite");
  }

  Status open() {
    const auto& start = recipe_.student.start;
    if (start != "teacher" && !path_exists(start)) return invalid("student.start: ", start, ": no such folder; expected 'teacher' or a student's folder");
    RETORT_TRY(auto text, TrainingText::load(recipe_.data.train, recipe_.data.held_out));
    RETORT_RETURN_IF_ERROR(check_pairs(recipe_, text));
    text_ = std::make_shared<const TrainingText>(std::move(text));
    RETORT_TRY(encode_, parts_.open_encoders(options_.teacher));
    RETORT_TRY(backend_, parts_.open_backend(recipe_, {options_.teacher, options_.threads, &group_}));
    return {};
  }

  Status begin() {
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? check_beginning() : Status()));
    std::error_code error;
    const auto make_folder = [&]() -> Status {
      made_folder_ = !path_exists(options_.out);
      fs::create_directories(options_.out, error);
      if (error) return io_error("cannot make ", options_.out, ": ", error.message());
      return lock_.take(options_.out);
    };
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? make_folder() : Status()));
    auto status = agree(group_, start_student());
    if (status.ok()) status = write_beginning();
    if (!status.ok() && made_folder_) abandon();
    return status;
  }

  Status check_beginning() const {
    RETORT_RETURN_IF_ERROR(check_keep(recipe_.student.keep, backend_->teacher()));
    RETORT_RETURN_IF_ERROR(check_rows(recipe_, backend_->teacher()));
    RETORT_TRY(const auto student, pure_student(backend_->teacher(), recipe_.student));
    RETORT_RETURN_IF_ERROR(check_ranks(recipe_, group_));
    return check_student(recipe_, backend_->teacher(), student);  // with kept attention start_student() asks for the rest
  }

  Status start_student() {
    if (group_.leads()) {
      std::fprintf(stderr, "%s: starting the student from %s\n", recipe_.name.c_str(),
                   recipe_.student.start == "teacher" ? "the teacher" : recipe_.student.start.c_str());
    }
    const auto text = calibration_text(recipe_, text_, encode_, backend_->teacher().vocab_size);
    RETORT_TRY(auto report, backend_->start(recipe_.student, text, recipe_.seed));
    if (interrupted()) return interrupted_error();
    if (recipe_.student.keep.kind != KeepSpec::Kind::kNone) {
      ModelConfig student = backend_->teacher();
      student.plan = report.plan;
      RETORT_RETURN_IF_ERROR(validate_plan(student));
      RETORT_RETURN_IF_ERROR(check_trained(recipe_, student));
    }
    state_.recipe = comparable(recipe_);
    state_.teacher_hash = backend_->teacher_hash();
    state_.data_hash = text_->hash();
    state_.plan = std::move(report.plan);
    state_.kept = std::move(report.kept);
    state_.start = std::move(report.details);
    return {};
  }

  Status write_beginning() {
    const auto write = [&]() -> Status {
      remove_own_files(options_.out);
      RETORT_RETURN_IF_ERROR(write_text_file(path("recipe.json"), recipe_json(recipe_).dump(1) + "\n"));
      return text_->write_held_out(path("held_out.jsonl"));
    };
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? write() : Status()));
    if (recipe_.save_init) RETORT_RETURN_IF_ERROR(backend_->write_student(path("student-init"), provenance()));
    // Last: it marks the folder as a run.
    return agree(group_, group_.leads() ? write_text_file(path("recipe.yaml"), resolved_yaml(recipe_)) : Status());
  }

  void abandon() const {
    remove_own_files(options_.out);
    std::error_code ignored;
    fs::remove(path(kLock), ignored);
    fs::remove(options_.out, ignored);
  }

  Status resume() {
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? lock_.take(options_.out) : Status()));
    RETORT_RETURN_IF_ERROR(agree(group_, take_state()));
    std::vector<StateTensor> weights;
    for (const auto& parameter : backend_->tensors()) weights.push_back({"w/" + parameter.name, parameter.value});
    const auto loaded = checkpoint_->load(weights, group_);
    return loaded.ok() || !group_.leads() ? loaded : checkpoint_->damaged(loaded.error());
  }

  Status take_state() {
    auto state = run_state_from_json(checkpoint_->state, checkpoint_->folder + "/state.json");
    if (!state.ok()) return checkpoint_->damaged(state.error());
    state_ = std::move(*state);
    RETORT_RETURN_IF_ERROR(same_recipe(state_.recipe));
    if (state_.teacher_hash != backend_->teacher_hash()) {
      return invalid(options_.teacher, ": not the teacher this run began with (its hash is ", backend_->teacher_hash(), ", was ", state_.teacher_hash, ")");
    }
    if (state_.data_hash != text_->hash()) {
      return invalid("the training text is not the one this run began with (its hash is ", text_->hash(), ", was ", state_.data_hash, ")");
    }
    if (state_.stage > int64_t(recipe_.stages.size())) return invalid(checkpoint_->folder, ": more stages than the recipe has");
    RETORT_RETURN_IF_ERROR(check_ranks(recipe_, group_));
    return backend_->restore(recipe_.student, state_.plan);
  }

  Status train() {
    std::optional<MetricsLog> metrics;
    const auto open_metrics = [&]() -> Status {
      RETORT_TRY(metrics, MetricsLog::open(options_.out, state_.metrics));
      return {};
    };
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? open_metrics() : Status()));
    RunContext context{recipe_, options_.out, options_.how_to_resume, *backend_, text_, encode_, pool_, metrics ? &*metrics : nullptr, state_, group_};
    while (state_.stage < int64_t(recipe_.stages.size())) {
      const bool inside = checkpoint_ && !state_.cursor.is_null();
      RETORT_TRY(auto loop, StageLoop::create(context, recipe_.stages[size_t(state_.stage)], inside ? &*checkpoint_ : nullptr));
      checkpoint_.reset();  // unmaps what the next checkpoints replace
      RETORT_RETURN_IF_ERROR(loop->run());
      loop.reset();
      state_.done.push_back(state_.current);
      ++state_.stage;
      state_.current = {};
      state_.cursor = nullptr;
      if (state_.stage < int64_t(recipe_.stages.size())) RETORT_RETURN_IF_ERROR(save_run(context, {}));
    }
    return {};
  }

  nlohmann::json provenance() const {
    Json out = {{"retort", RETORT_VERSION}, {"recipe", recipe_json(recipe_)},
                {"teacher", {{"name", fs::path(options_.teacher).filename().string()}, {"hash", state_.teacher_hash}}},
                {"data_hash", state_.data_hash}, {"seed", recipe_.seed}, {"tokens", state_.tokens}, {"seconds", state_.seconds},
                {"stages", stages_json(state_)}, {"kept", state_.kept}};
    return plain(out);
  }

  Result<Json> finish() {
    RETORT_RETURN_IF_ERROR(backend_->write_student(path("student"), provenance()));
    Json out = {{"name", recipe_.name}, {"tokens_trained", state_.tokens}, {"seconds", state_.seconds}, {"stages", stages_json(state_)},
                {"kept", state_.kept}, {"start", start_json(state_)}, {"teacher_hash", state_.teacher_hash}, {"data_hash", state_.data_hash},
                {"recipe", recipe_json(recipe_)}};
    RETORT_RETURN_IF_ERROR(agree(group_, group_.leads() ? write_text_file(path(kFinished), out.dump(1) + "\n") : Status()));
    if (group_.leads()) remove_checkpoints(options_.out);
    return out;
  }

  const Recipe& recipe_;
  const RunOptions& options_;
  const RunParts& parts_;
  ProcessGroup& group_;
  ThreadPool pool_;
  std::shared_ptr<const TrainingText> text_;
  Encoders encode_;
  std::unique_ptr<Backend> backend_;
  std::optional<Checkpoint> checkpoint_;
  RunState state_;
  FolderLock lock_;
  bool made_folder_ = false;
};

}  // namespace

Result<Encoders> open_encoders(const std::string& teacher) {
  RETORT_TRY(auto tokenizer, load_tokenizer(teacher));
  Encoders out;
  out.text = [tokenizer](std::string_view text) { return tokenizer.encode(text, {.add_special = true, .parse_special = false}); };
  out.chat = chat_encoder(tokenizer);
  return out;
}

Result<Json> run_recipe(const Recipe& recipe, const RunOptions& options, const RunParts& parts) {
  return Run(recipe, options, parts).run();
}

}  // namespace retort::train
