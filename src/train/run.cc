#include "train/run.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <sys/file.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"
#include "train/data_files.h"
#include "train/preflight.h"
#include "train/same_recipe.h"
#include "train/second_teacher.h"
#include "train/stage_cache.h"
#include "train/stage_loop.h"
#include "train/start_source.h"
#include "train/stepwise.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFinished = "train.json";
constexpr const char* kLock = ".lock";
// In the order in which they are removed: what a resumed run would go on from comes first.
constexpr const char* kGoOnFrom[] = {"checkpoints", kFinished, "recipe.yaml", "recipe.json"};
constexpr const char* kOwnFiles[] = {"checkpoints", kFinished, "recipe.yaml", "recipe.json", "held_out.jsonl", "metrics.jsonl", "student",
                                     "student-init", "results.json", "report.html", "matrices.json", kBadStep};

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

bool is_events(const fs::path& file) { return file.filename().string().rfind("events.out.tfevents.", 0) == 0; }

void remove_own_files(const std::string& folder) {
  std::error_code ignored;
  for (const char* name : kOwnFiles) fs::remove_all(folder + "/" + name, ignored);
  std::vector<fs::path> events;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (is_events(entry.path())) events.push_back(entry.path());
  }
  for (const auto& path : events) fs::remove(path, ignored);
}

// Nothing but what a run writes: all that is left when one was killed before it had really begun.
bool only_own_files(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const auto name = entry.path().filename().string();
    const bool own = std::find(std::begin(kOwnFiles), std::end(kOwnFiles), name) != std::end(kOwnFiles);
    const bool log = is_events(entry.path()) && path_exists(folder + "/" + kLock);  // other programs write such files too
    if (!own && !log && name != kLock && name.find(".tmp.") == std::string::npos) return false;
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

// Another text for each step.
CalibrationText calibration_text(const Recipe& recipe, std::shared_ptr<const TrainingText> text, Encoders encode, int vocab_size, int64_t step = 0) {
  auto calls = std::make_shared<uint64_t>(uint64_t(step) << 32);
  return [=, seed = recipe.seed](int rows, int seq) {
    return TokenStream(text, encode, {rows, seq, mix_seed(seed, 2, (*calls)++), 0, vocab_size}).next();
  };
}

Json start_json(const RunState& state) {
  Json out = {{"kept", state.kept}};
  if (state.start.is_object()) out["details"] = Json::parse(state.start.dump());
  return out;
}

// Of a recipe whose first stage ran in `steps` steps, or in none.
Json stages_json(const Recipe& recipe, size_t steps, const RunState& state) {
  Json out = Json::array();
  for (const auto& stage : state.done) {
    const size_t index = std::min(written_stage(out.size(), steps), recipe.stages.size() - 1);
    out.push_back({{"name", stage.name}, {"steps", stage.steps}, {"skipped", stage.skipped}, {"tokens", stage.tokens},
                   {"seconds", stage.seconds}, {"tokens_per_s", stage.seconds > 0 ? double(stage.tokens) / stage.seconds : 0.0},
                   {"gemm_share", stage.compute_seconds > 0 ? stage.gemm_seconds / stage.compute_seconds : 0.0},
                   {"first_loss", stage.first_loss}, {"last_loss", stage.last_loss}});
    const StageSpec& spec = recipe.stages[index];
    if (spec.budget.epochs > 0) out.back()[spec.compares_pairs() ? "epoch_pairs" : "epoch_tokens"] = state.epoch_sizes[index];
    if (spec.switch_teacher.to.empty()) continue;
    out.back()["second_teacher"] = {{"name", fs::path(spec.switch_teacher.to).filename().string()}, {"hash", state.second_teachers[index]},
                                    {"after_steps", stage.switched_at >= 0 ? Json(stage.switched_at) : Json()}};
  }
  return out;
}

class Run {
 public:
  Run(const Recipe& recipe, const RunOptions& options, const RunParts& parts)
      : recipe_(recipe), options_(options), parts_(parts), group_(options.group ? *options.group : one_process()), pool_(options.threads) {}

  Result<Json> run() {
    RETORT_RETURN_IF_ERROR(same_command(group_, recipe_, cat(options_.resume ? "resume" : "begin", options_.overwrite ? " anew" : "")));
    RETORT_RETURN_IF_ERROR(by_leader([&] { return check_folder(options_); }));
    RETORT_TRY(const double finished, of_leader(group_, options_.resume && path_exists(path(kFinished))));
    if (finished != 0) {
      auto document = group_.leads() ? finished_before() : Result<Json>(Json());
      RETORT_RETURN_IF_ERROR(agree(group_, document));
      return document;
    }
    // Ranks compute as many rows at a time as rank 0 does: what they say to one another is the same then.
    RETORT_TRY(const double rows_at_once, of_leader(group_, double(pool_.size())));
    RETORT_RETURN_IF_ERROR(agree(group_, open(int(rows_at_once))));
    RETORT_RETURN_IF_ERROR(same_inputs(group_, *backend_, options_.teacher, encode_.tokenizer, data_.hash()));
    RETORT_RETURN_IF_ERROR(same(group_, start_from_.dump(), "the student that this one starts from, " + recipe_.student.start + ","));
    if (options_.resume) RETORT_RETURN_IF_ERROR(find_checkpoint());
    RETORT_RETURN_IF_ERROR(checkpoint_ ? resume() : begin());
    const auto status = train();
    if (!status.ok()) {
      // Before the first step there is nothing to go on with: leave no trace.
      if (made_folder_ && state_.run_step == 0 && status.error().code != ErrorCode::kInterrupted) abandon();
      return status.error();
    }
    return finish();
  }

 private:
  // What rank 0 alone does: files are its own. Its error is everybody's.
  template <class Work>
  Status by_leader(const Work& work) const { return agree(group_, group_.leads() ? Status(work()) : Status()); }

  std::string path(const std::string& name) const { return options_.out + "/" + name; }

  // Rank 0 reads the newest checkpoint; the others learn from it what is in its state.json.
  Status find_checkpoint() {
    RETORT_RETURN_IF_ERROR(by_leader([&]() -> Status {
      RETORT_TRY(checkpoint_, newest_checkpoint(options_.out));
      return {};
    }));
    RETORT_TRY(const std::string state, of_leader(group_, checkpoint_ ? checkpoint_->state.dump() : std::string()));
    if (!group_.leads() && !state.empty()) {
      checkpoint_.emplace();
      checkpoint_->state = nlohmann::json::parse(state);
    }
    return {};
  }

  Result<Json> finished_before() const {
    RETORT_TRY(const auto text, read_text_file(path(kFinished)));
    auto document = Json::parse(text, nullptr, false);
    if (!document.is_object()) return invalid(path(kFinished), ": not JSON; --overwrite starts the run anew");
    if (document.contains("recipe")) {
      RETORT_RETURN_IF_ERROR(same_recipe(recipe_, comparable(document["recipe"]), options_.out));
    }
    remove_checkpoints(options_.out);  // killed right before it did so
    return document;
  }

  Status open(int rows_at_once) {
    const auto& start = recipe_.student.start;
    if (start != "teacher") {
      if (!path_exists(start)) return invalid("student.start: ", start, ": no such folder; expected 'teacher' or a student's folder");
      auto source = start_source(start);
      if (!source.ok()) return invalid("student.start: ", source.error().message, "; expected 'teacher' or a student's folder");
      start_from_ = std::move(*source);
    }
    RETORT_TRY(data_, StageData::load(recipe_));
    RETORT_TRY(files_, data_files(recipe_));
    RETORT_TRY(encode_, parts_.open_encoders(options_.teacher));
    RETORT_TRY(backend_, parts_.open_backend(recipe_, {options_.teacher, options_.threads, &group_, rows_at_once, encode_.tokens}));
    return check_caches(recipe_, data_, encode_, *backend_);
  }

  Status plan_pure() {
    RETORT_RETURN_IF_ERROR(check_keep(recipe_.student.keep, backend_->teacher()));
    RETORT_TRY(pure_, pure_student(backend_->teacher(), recipe_.student));
    return {};
  }

  // The recipe as it runs: with a stage for each step.
  Status plan_steps() {
    RETORT_TRY(steps_, steps_of(recipe_.student, pure_));
    RETORT_TRY(running_, with_steps(recipe_, steps_));
    return {};
  }
  bool begins_step() const { return state_.stage > 0 && state_.stage < int64_t(steps_.size()); }
  // The student as the running step has it.
  StudentSpec student_now() const {
    StudentSpec spec = recipe_.student;
    if (!steps_.empty()) spec.keep = steps_[std::min(size_t(state_.stage), steps_.size() - 1)].keep;
    return spec;
  }
  CalibrationText text_of_step() const { return calibration_text(recipe_, data_.recipe(), encode_, backend_->teacher().vocab_size, state_.stage); }

  Status begin() {
    RETORT_RETURN_IF_ERROR(agree(group_, plan_pure()));
    RETORT_RETURN_IF_ERROR(by_leader([&] { return check_beginning(); }));
    RETORT_RETURN_IF_ERROR(agree(group_, plan_steps()));
    warn();
    auto others = second_teachers();
    RETORT_RETURN_IF_ERROR(agree(group_, others));
    state_.second_teachers = std::move(*others);
    RETORT_RETURN_IF_ERROR(same(group_, Json(state_.second_teachers).dump(), "a second teacher"));
    auto sizes = epoch_sizes(recipe_, data_, encode_, backend_->teacher().vocab_size, pool_);
    RETORT_RETURN_IF_ERROR(agree(group_, sizes));
    state_.epoch_sizes = std::move(*sizes);
    RETORT_RETURN_IF_ERROR(by_leader([&] { return make_folder(); }));
    auto status = agree(group_, start_student());
    // Machines that round otherwise could rank layers otherwise.
    if (status.ok()) status = same(group_, plan_json(state_.plan).dump(), "the attention that the student keeps");
    if (status.ok()) status = write_beginning();
    if (!status.ok() && made_folder_) abandon();
    return status;
  }

  Status check_beginning() const {
    if (options_.resume) RETORT_RETURN_IF_ERROR(same_recipe_file(recipe_, options_.out));
    RETORT_RETURN_IF_ERROR(check_rows(recipe_, backend_->teacher()));
    RETORT_RETURN_IF_ERROR(check_ranks(recipe_, group_));
    RETORT_RETURN_IF_ERROR(check_student(recipe_, backend_->teacher(), pure_));  // of a layout that is measured start_student() asks for the rest
    return options_.overwrite ? Status() : check_room(recipe_, pure_, options_.out);  // else room is made first
  }

  // Of what may be meant and rarely is.
  void warn() const {
    if (!group_.leads()) return;
    for (const auto& line : short_rows(recipe_, pure_)) std::fprintf(stderr, "retort: warning: %s\n", line.c_str());
  }

  Status make_folder() {
    std::error_code error;
    made_folder_ = !path_exists(options_.out);
    fs::create_directories(options_.out, error);
    if (error) return io_error("cannot make ", options_.out, ": ", error.message());
    RETORT_RETURN_IF_ERROR(lock_.take(options_.out));
    if (options_.overwrite) {  // from here on --resume means the new run, of which there may be nothing yet
      for (const char* name : kGoOnFrom) fs::remove_all(path(name), error);
    }
    return {};
  }

  Status start_student() {
    if (group_.leads()) {
      std::fprintf(stderr, "%s: starting the student from %s\n", recipe_.name.c_str(),
                   recipe_.student.start == "teacher" ? "the teacher" : recipe_.student.start.c_str());
    }
    RETORT_TRY(auto report, backend_->start(student_now(), text_of_step(), recipe_.seed));
    if (interrupted()) return interrupted_error();
    if (is_measured(recipe_.student.keep)) {
      ModelConfig student = backend_->teacher();
      student.plan = report.plan;
      RETORT_RETURN_IF_ERROR(validate_plan(student));
      RETORT_RETURN_IF_ERROR(check_trained(recipe_, student));
    }
    state_.recipe = comparable(recipe_);
    state_.teacher_hash = backend_->teacher_hash();
    state_.start_from = start_from_;
    state_.data_hash = data_.hash();
    state_.data = data_files_json(files_);
    state_.plan = std::move(report.plan);
    state_.kept = std::move(report.kept);
    state_.start = std::move(report.details);
    return {};
  }

  Status write_beginning() {
    RETORT_RETURN_IF_ERROR(by_leader([&]() -> Status {
      remove_own_files(options_.out);
      RETORT_RETURN_IF_ERROR(write_text_file(path("recipe.json"), recipe_json(recipe_).dump(1) + "\n"));
      return data_.recipe()->write_held_out(path("held_out.jsonl"));
    }));
    if (recipe_.save_init) RETORT_RETURN_IF_ERROR(backend_->write_student(path("student-init"), provenance()));
    return by_leader([&] { return write_text_file(path("recipe.yaml"), resolved_yaml(recipe_)); });  // last: it marks the folder as a run
  }

  void abandon() const {
    remove_own_files(options_.out);
    std::error_code ignored;
    fs::remove(path(kLock), ignored);
    fs::remove(options_.out, ignored);
  }

  Status resume() {
    RETORT_RETURN_IF_ERROR(by_leader([&] { return lock_.take(options_.out); }));
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
    RETORT_RETURN_IF_ERROR(same_recipe(recipe_, state_.recipe, options_.out));
    if (state_.teacher_hash != backend_->teacher_hash()) {
      return invalid(options_.teacher, ": not the teacher this run began with (its hash is ", backend_->teacher_hash(), ", was ", state_.teacher_hash, ")");
    }
    RETORT_RETURN_IF_ERROR(same_start(recipe_.student.start, state_.start_from, start_from_));
    if (state_.data_hash != data_.hash()) {
      const std::string difference = data_difference(state_.data, files_);
      if (!difference.empty()) return invalid(difference);
      return invalid("the training text is not the one this run began with (its hash is ", data_.hash(), ", was ", state_.data_hash, ")");
    }
    RETORT_RETURN_IF_ERROR(plan_pure());
    RETORT_RETURN_IF_ERROR(plan_steps());
    RETORT_RETURN_IF_ERROR(same_second_teachers());
    if (state_.stage > int64_t(running_.stages.size())) return invalid(checkpoint_->folder, ": more stages than the recipe has");
    RETORT_RETURN_IF_ERROR(check_ranks(recipe_, group_));
    return backend_->restore(recipe_.student, state_.plan);
  }

  // Of every stage.
  Result<std::vector<std::string>> second_teachers() const {
    std::vector<std::string> hashes;
    for (const StageSpec& stage : recipe_.stages) {
      RETORT_TRY(hashes.emplace_back(), second_teacher_hash(*backend_, stage));
    }
    return hashes;
  }

  Status same_second_teachers() const {
    const size_t open = written_stage(size_t(state_.stage), steps_.size());
    for (size_t s = 0; s < recipe_.stages.size(); ++s) {
      if (s == open && state_.current.switched_at >= 0) continue;   // the stage opens it again before its next step, and looks then
      RETORT_TRY(const std::string now, second_teacher_hash(*backend_, recipe_.stages[s]));
      RETORT_RETURN_IF_ERROR(same_second_teacher(recipe_.stages[s], now, state_.second_teacher(s)));
    }
    return {};
  }

  Status train() {
    std::optional<MetricsLog> metrics;
    RETORT_RETURN_IF_ERROR(by_leader([&]() -> Status {
      RETORT_TRY(metrics, MetricsLog::open(options_.out, state_.metrics));
      return {};
    }));
    RunContext context{recipe_, running_, options_.out, options_.teacher, options_.how_to_resume, *backend_, data_, encode_, pool_,
                       metrics ? &*metrics : nullptr, state_, group_};
    while (state_.stage < int64_t(running_.stages.size())) {
      const bool inside = checkpoint_ && !state_.current.name.empty();
      if (!inside && begins_step()) RETORT_RETURN_IF_ERROR(next_step());
      RETORT_TRY(auto loop, StageLoop::create(context, running_.stages[size_t(state_.stage)], inside ? &*checkpoint_ : nullptr));
      checkpoint_.reset();  // unmaps what the next checkpoints replace
      RETORT_RETURN_IF_ERROR(loop->run());
      loop.reset();
      state_.done.push_back(state_.current);
      ++state_.stage;
      state_.current = {};
      if (!begins_step()) state_.cursor = nullptr;
      state_.watch = nullptr;
      if (state_.stage < int64_t(running_.stages.size())) RETORT_RETURN_IF_ERROR(save_run(context, {}));
    }
    return {};
  }

  // More attention goes; the text goes on where the step before has left it.
  Status next_step() {
    auto report = backend_->advance(student_now(), text_of_step(), recipe_.seed);
    RETORT_TRY(const bool stop, anybody(group_, interrupted()));
    if (stop) {
      return common(group_, {ErrorCode::kInterrupted, cat("interrupted before stage '", running_.stages[size_t(state_.stage)].name,
                                                          "', and saved as the one before it left it. Go on with: ", options_.how_to_resume)});
    }
    RETORT_RETURN_IF_ERROR(agree(group_, report));
    state_.plan = std::move(report->plan);
    state_.kept = std::move(report->kept);
    return {};
  }

  nlohmann::json provenance() const {
    Json out = {{"retort", RETORT_VERSION}, {"library", backend_->library()}, {"recipe", recipe_json(recipe_)},
                {"teacher", {{"name", fs::path(options_.teacher).filename().string()}, {"hash", state_.teacher_hash}}},
                {"start", {{"from", recipe_.student.start}, {"hash", state_.start_from.is_object() ? state_.start_from["hash"] : nlohmann::json()}}},
                {"data_hash", state_.data_hash}, {"data", Json::parse(state_.data.dump())}, {"seed", recipe_.seed}, {"tokens", state_.tokens}, {"seconds", state_.seconds},
                {"stages", stages_json(recipe_, steps_.size(), state_)}, {"kept", state_.kept}};
    return plain(out);
  }

  // What a report shows of the finished student.
  Status write_matrices() {
    const ModelConfig& teacher = backend_->teacher();
    const int seq = teacher.context_length > 0 ? std::min(kMatrixTokens, teacher.context_length) : kMatrixTokens;
    RETORT_TRY(const Batch batch, TokenStream(data_.recipe(), encode_, {1, seq, mix_seed(recipe_.seed, 3), 0, teacher.vocab_size}).next());
    RETORT_TRY(const auto heads, backend_->head_matrices(batch));
    if (heads.empty()) return {};
    return by_leader([&] { return write_text_file(path("matrices.json"), matrices_json(heads, seq).dump() + "\n"); });
  }

  Result<Json> finish() {
    RETORT_RETURN_IF_ERROR(write_matrices());
    RETORT_RETURN_IF_ERROR(backend_->write_student(path("student"), provenance()));
    Json out = {{"name", recipe_.name}, {"tokens_trained", state_.tokens}, {"seconds", state_.seconds}, {"stages", stages_json(recipe_, steps_.size(), state_)},
                {"kept", state_.kept}, {"start", start_json(state_)}, {"teacher_hash", state_.teacher_hash}, {"data_hash", state_.data_hash},
                {"recipe", recipe_json(recipe_)}};
    if (!steps_.empty()) out["steps"] = steps_json(steps_);
    RETORT_RETURN_IF_ERROR(by_leader([&] { return write_text_file(path(kFinished), out.dump(1) + "\n"); }));
    if (group_.leads()) remove_checkpoints(options_.out);
    return out;
  }

  const Recipe& recipe_;
  ModelConfig pure_;                   // the student with a mixer wherever the recipe may put one
  std::vector<Step> steps_;            // none: the student is converted at once
  Recipe running_;                     // with a stage for each step
  const RunOptions& options_;
  const RunParts& parts_;
  ProcessGroup& group_;
  ThreadPool pool_;
  StageData data_;
  std::vector<DataFile> files_;
  Encoders encode_;
  nlohmann::json start_from_;          // of student.start; null: the teacher
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
  out.tokenizer = hex(tokenizer.fingerprint());
  out.tokens = int(tokenizer.size());
  return out;
}

Status check_run_folder(const RunOptions& options) { return check_folder(options); }

Result<Json> run_recipe(const Recipe& recipe, const RunOptions& options, const RunParts& parts) {
  return Run(recipe, options, parts).run();
}

}  // namespace retort::train
