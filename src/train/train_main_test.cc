// The whole program, in this process, on a tiny teacher: flags to written student.
#include "train/train_main.h"

#include <csignal>
#include <numeric>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/interrupt.h"
#include "base/sha256.h"
#include "io/model_files.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::train {
namespace {

constexpr const char* kMainRecipe = R"(name: tiny
seed: 5
save_init: true
checkpoint_minutes: 0
student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}}
data: {held_out: 0.1, calibration_tokens: 512}
defaults: {seq: 48, batch: 2, lr: 1e-3, repeat_every: 3}
stages:
- {name: align, loss: {attn_out: {form: relative}}, steps: 12, lr_features: 5e-3, schedule: {wsd: {warmup_steps: 2, decay: 0.5}}, ema: 0.9, clip: 1}
- {name: kd, loss: {logits: kl_here, ce: 0.1}, steps: 8, schedule: cosine, logit_fraction: 0.5, clip: 1, accumulate: 2}
)";

class TrainMainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    clear_interrupt();
    ASSERT_TRUE(retort::test::write_tiny_model(folder_ / "teacher").ok());
    retort::test::write_file(folder_ / "corpus.jsonl", retort::test::tiny_corpus());
    std::string recipe = kMainRecipe;
    recipe.replace(recipe.find("kl_here"), 7, "{form: kl}");
    retort::test::write_file(folder_ / "tiny.yaml", recipe);
  }

  // A run's folder, and flags.
  std::vector<std::string> command(const std::string& out, const std::vector<std::string>& flags, const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"--out", folder_ / out};
    all.insert(all.end(), flags.begin(), flags.end());
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // In a child process: signals, limits and torch's threads stay out of the test program. `prepare` runs in the child.
  int run(std::vector<std::string> more, const std::function<void()>& prepare = {}) {
    const bool named = !more.empty() && more.front().find(".yaml") != std::string::npos;
    if (!named) more.insert(more.begin(), folder_ / "tiny.yaml");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      if (!std::freopen((folder_ / "out.txt").c_str(), "w", stdout) || !std::freopen((folder_ / "err.txt").c_str(), "w", stderr)) _exit(99);
      if (prepare) prepare();
      std::vector<std::string> words = {"retort-train", "distill"};
      words.insert(words.end(), more.begin(), more.end());
      const std::pair<std::string, std::string> defaults[] = {{"--teacher", folder_ / "teacher"}, {"--data", folder_ / "corpus.jsonl"}, {"--threads", "2"}};
      for (const auto& [flag, value] : defaults) {
        if (std::find(words.begin(), words.end(), flag) == words.end()) words.insert(words.end(), {flag, value});
      }
      std::vector<char*> argv;
      for (auto& word : words) argv.push_back(word.data());
      const int code = train_main(int(argv.size()), argv.data());
      std::fflush(nullptr);
      _exit(code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  }
  // Lets the run go on for a while, then sends `signal`; true when the run had not ended before.
  bool run_until(std::vector<std::string> more, int signal, int rows) {
    const std::string metrics = folder_ / "b/metrics.jsonl";
    const pid_t watcher = fork();
    if (watcher == 0) {
      const int code = run(std::move(more), [&] {
        const pid_t self = getpid();
        if (fork() != 0) return;
        for (int i = 0; i < 6000 && kill(self, 0) == 0; ++i, usleep(2000)) {
          const auto text = retort::test::read_file(metrics);
          if (std::count(text.begin(), text.end(), '\n') < rows) continue;
          kill(self, signal);
          break;
        }
        _exit(0);
      });
      _exit(code == 130 || code == 256 + signal ? 1 : 0);
    }
    int status = 0;
    waitpid(watcher, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 1;
  }
  // The same with SIGKILL, again from nothing until the signal came in time: what is resumed then really was cut off.
  void kill_run(const std::vector<std::string>& words, int rows) {
    for (int i = 0; i < 10; ++i) {
      std::filesystem::remove_all(folder_ / "b");
      if (run_until(words, SIGKILL, rows)) return;
    }
    ADD_FAILURE() << "no signal came in time";
  }
  std::string err() { return retort::test::read_file(folder_ / "err.txt"); }
  std::vector<double> losses_of(const std::string& name) {
    std::istringstream rows(retort::test::read_file(folder_ / (name + "/metrics.jsonl")));
    std::vector<double> losses;
    for (std::string line; std::getline(rows, line);) losses.push_back(nlohmann::json::parse(line)["loss"].get<double>());
    return losses;
  }
  std::vector<std::byte> tensor_of(const std::string& model, const std::string& name) {
    const auto files = open_model(folder_ / model);
    if (!files.ok() || !files->weights->has(name)) return ADD_FAILURE() << model << " has no " << name, std::vector<std::byte>();
    const auto view = files->weights->tensor(name);
    return {view->data, view->data + view->bytes()};
  }
  std::string weights(const std::string& name) { return retort::test::read_file(folder_ / (name + "/student/model.safetensors")); }

  retort::test::TempFolder folder_;
};

TEST_F(TrainMainTest, DistilsAStudentThatOpens) {
  ASSERT_EQ(run({"--out", folder_ / "a//", "--teacher", folder_ / "teacher/"}), 0) << err();
  EXPECT_EQ(retort::test::read_file(folder_ / "out.txt").rfind(folder_ / "a/student: ", 0), 0u) << retort::test::read_file(folder_ / "out.txt");
  const auto student = open_model(folder_ / "a/student");
  ASSERT_TRUE(student.ok()) << student.error().message;
  EXPECT_EQ(student->config.plan[0].parts[0].mixer, "slots");
  EXPECT_EQ(student->config.provenance["recipe"]["name"], "tiny");
  EXPECT_TRUE(open_model(folder_ / "a/student-init").ok());
  const auto losses = losses_of("a");
  ASSERT_EQ(losses.size(), 20u);
  EXPECT_LT(losses[10] + losses[11], losses[0] + losses[1]) << "alignment learns";
  ASSERT_EQ(run({"--out", folder_ / "a", "--resume"}), 0) << "a finished run";
}

TEST_F(TrainMainTest, KeepsHeadsAndStartsFromAStudent) {
  ASSERT_EQ(run({"--out", folder_ / "a"}), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "h", "--start", folder_ / "a/student", "--keep", "heads:2", "--set", "align.steps=2"}), 0) << err();
  const auto student = open_model(folder_ / "h/student");
  ASSERT_TRUE(student.ok()) << student.error().message;
  int kept = 0;
  for (const auto& layer : student->config.plan) {
    for (const auto& part : layer.parts) kept += part.mixer == "attention" ? int(part.kv_heads.size()) : 0;
  }
  EXPECT_EQ(kept, 2);
  const auto train = nlohmann::json::parse(retort::test::read_file(folder_ / "h/train.json"));
  EXPECT_EQ(train["kept"].size(), 2u);
}

// Of a random start the body and kept attention are the teacher's, and a resume does not know the difference.
TEST_F(TrainMainTest, RandomProjectionsUnderACopiedBody) {
  const std::vector<std::string> flags = {"--set", "student.init=random", "--set", "student.keep=[1]"};
  const auto with = [&](const std::string& out, const std::vector<std::string>& more = {}) { return command(out, flags, more); };
  ASSERT_EQ(run(with("a")), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "copied", "--set", "student.keep=[1]"}), 0) << err();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"}) {
    EXPECT_EQ(tensor_of("a/student-init", name), tensor_of("copied/student-init", name)) << name;
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    const std::string full = cat("model.layers.0.mixer.", name, ".weight");
    EXPECT_NE(tensor_of("a/student-init", full), tensor_of("copied/student-init", full)) << name;
  }
  EXPECT_GT(losses_of("a")[0], losses_of("copied")[0]);
  kill_run(with("b", {"--set", "checkpoint_minutes=1e-9"}), 5);
  ASSERT_EQ(run(with("b", {"--set", "checkpoint_minutes=1e-9", "--resume"})), 0) << err();
  EXPECT_EQ(weights("b"), weights("a"));
  EXPECT_EQ(run(with("never", {"--start", folder_ / "a/student"})), 2);
  EXPECT_NE(err().find("'init' is random, but all values come from 'start'"), std::string::npos) << err();
  EXPECT_EQ(run(with("never", {"--dry-run"})), 0);
  EXPECT_NE(retort::test::read_file(folder_ / "out.txt").find("starts from teacher with random projections"), std::string::npos);
}

// One layer after another, then the rest of the recipe; killed in every step, the same bits.
TEST_F(TrainMainTest, StepsCarryWeightsAndResumeBitForBit) {
  for (const bool shares : {false, true}) {
    const std::string a = cat("a", shares), b = "b";
    // Layer by layer with frozen attention; end to end with attention that trains, so that mixers start from what it has become.
    const std::vector<std::string> how = shares ? std::vector<std::string>{"--set", "student.stepwise=[0.67]", "--set", "student.keep=[2]", "--set",
                                                                           "align.loss=ce", "--set", "align.train=all", "--set", "align.steps=4"}
                                                : std::vector<std::string>{"--set", "student.stepwise=one_by_one"};
    const auto with = [&](const std::string& out, std::vector<std::string> more) {
      more.insert(more.end(), {"--set", "save_init=true"});
      return command(out, how, more);
    };
    ASSERT_EQ(run(with(a, {})), 0) << err();
    const auto train = nlohmann::json::parse(retort::test::read_file(folder_ / (a + "/train.json")));
    std::vector<std::string> names;
    for (const auto& stage : train["stages"]) names.push_back(stage["name"]);
    EXPECT_EQ(names, shares ? (std::vector<std::string>{"align[0.67]", "align[list]", "kd"})
                            : (std::vector<std::string>{"align[layer0]", "align[layer2]", "align[layer1]", "kd"}));
    EXPECT_EQ(train["steps"].size(), names.size() - 1);
    const auto student = open_model(folder_ / (a + "/student")), init = open_model(folder_ / (a + "/student-init"));
    ASSERT_TRUE(student.ok() && init.ok());
    for (int l = 0; l < 3; ++l) {
      EXPECT_EQ(student->config.plan[size_t(l)].parts[0].mixer, shares && l == 2 ? "attention" : "slots") << l;
      EXPECT_EQ(init->config.plan[size_t(l)].parts[0].mixer, l == 0 ? "slots" : "attention") << "the first step, layer " << l;
    }
    int killed = 0;
    for (const int rows : {2, 5, 9, 13}) {
      std::filesystem::remove_all(folder_ / b);
      const auto words = with(b, {"--set", "checkpoint_minutes=1e-9"});
      killed += run_until(words, SIGKILL, rows);
      auto go_on = words;
      go_on.push_back("--resume");
      ASSERT_EQ(run(go_on), 0) << err();
      EXPECT_TRUE(weights(b) == weights(a)) << rows;
      EXPECT_EQ(losses_of(b), losses_of(a)) << rows;
    }
    EXPECT_GT(killed, 0);
    ASSERT_EQ(run(with("never", {"--dry-run"})), 0) << err();
    const std::string said = retort::test::read_file(folder_ / "out.txt");
    EXPECT_NE(said.find(shares ? "step     0.67: replaces layers 0; attention in layers 1-2\nstep     list: replaces layers 1; attention in layers 2\n"
                               : "step     layer0: replaces layers 0; attention in layers 1-2\nstep     layer2: replaces layers 2; attention in layers 1\n"
                                 "step     layer1: replaces layers 1; no attention stays\n"), std::string::npos) << said;
    EXPECT_NE(said.find(shares ? "stage    align[0.67]: ce" : "stage    align[layer2]: attn_out"), std::string::npos) << said;
  }
}

// A hybrid's folder: with the same attention it goes on as it is, its own attention included; with less, mixers start from the folder's.
TEST_F(TrainMainTest, AHybridGoesOnOrLosesMoreAttention) {
  ASSERT_EQ(run({"--out", folder_ / "h", "--keep", "list:1,2", "--set", "kd.train=[all]", "--set", "kd.lr=1e-2"}), 0) << err();
  const std::string query = "model.layers.1.self_attn.q_proj.weight", became = "model.layers.1.mixer.q_proj.weight";
  ASSERT_EQ(run({"--out", folder_ / "same", "--start", folder_ / "h/student", "--keep", "list:1,2"}), 0) << err();
  for (const auto& name : open_model(folder_ / "h/student")->weights->names()) EXPECT_EQ(tensor_of("same/student-init", name), tensor_of("h/student", name)) << name;
  EXPECT_EQ(tensor_of("same/student", query), tensor_of("h/student", query)) << "attention that does not train stays the folder's";

  const std::vector<std::string> less = {"--start", folder_ / "h/student", "--keep", "list:2"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.end(), less.begin(), less.end());
    return words;
  };
  ASSERT_EQ(run(with({"--out", folder_ / "less"})), 0) << err();
  for (const char* projection : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    EXPECT_EQ(tensor_of("less/student-init", cat("model.layers.1.mixer.", projection, ".weight")), tensor_of("h/student", cat("model.layers.1.self_attn.", projection, ".weight")));
  }
  EXPECT_EQ(tensor_of("less/student-init", "model.layers.0.mixer.q_proj.weight"), tensor_of("h/student", "model.layers.0.mixer.q_proj.weight"));
  EXPECT_EQ(tensor_of("less/student", "model.layers.2.self_attn.k_proj.weight"), tensor_of("h/student", "model.layers.2.self_attn.k_proj.weight"));
  EXPECT_NE(tensor_of("less/student", became), tensor_of("less/student-init", became)) << "it trains";
  kill_run(with({"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9"}), 5);
  ASSERT_EQ(run(with({"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9", "--resume"})), 0) << err();
  EXPECT_EQ(weights("b"), weights("less"));
  // Attention that the folder has no more is the teacher's.
  ASSERT_EQ(run({"--out", folder_ / "more", "--start", folder_ / "less/student", "--keep", "list:0,2"}), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "plain", "--keep", "list:0"}), 0) << err();
  EXPECT_EQ(tensor_of("more/student-init", "model.layers.0.self_attn.q_proj.weight"), tensor_of("plain/student-init", "model.layers.0.self_attn.q_proj.weight"));
  // A pattern names some of what stays; a dry run measures the hybrid.
  ASSERT_EQ(run({"--out", folder_ / "some", "--keep", "list:1", "--set", "kd.train=[mixers, model.layers.1.self_attn.q_*]", "--set", "kd.lr=1e-2"}), 0) << err();
  EXPECT_NE(tensor_of("some/student", query), tensor_of("some/student-init", query));
  EXPECT_EQ(tensor_of("some/student", "model.layers.1.self_attn.k_proj.weight"), tensor_of("some/student-init", "model.layers.1.self_attn.k_proj.weight"));
  EXPECT_EQ(run({"--out", folder_ / "never", "--dry-run", "--keep", "list:1", "--set", "kd.train=[attention]"}), 0) << err();
  EXPECT_EQ(run({"--out", folder_ / "never", "--dry-run", "--keep", "list:1", "--set", "kd.train=[mixerz]"}), 2);
  EXPECT_NE(err().find("'mixerz'"), std::string::npos) << err();
}

// LoRA on mixers, on attention that stays and on MLPs, layer by layer and end to end: the student has no trace of it; what it is not on stays.
TEST_F(TrainMainTest, LoraIsMergedAndResumesBitForBit) {
  const std::vector<std::string> flags = {"--keep", "list:1", "--set", "align.train=[features, {lora: {r: 2, alpha: 4, on: [q, o]}}]", "--set",
                                          "kd.train={lora: {r: 3, alpha: 6, on: [q, v, down, up]}}", "--set", "kd.lr=2e-2", "--set", "kd.ema=0.5", "--set", "kd.steps=14"};
  const auto with = [&](const std::string& out, const std::vector<std::string>& more = {}) { return command(out, flags, more); };
  ASSERT_EQ(run(with("a")), 0) << err();
  const auto student = open_model(folder_ / "a/student");
  ASSERT_TRUE(student.ok());
  for (const auto& name : student->weights->names()) EXPECT_EQ(name.find("lora"), std::string::npos) << name;
  for (const char* name : {"model.layers.0.mixer.q_proj.weight", "model.layers.0.mixer.v_proj.weight", "model.layers.0.mixer.o_proj.weight",
                           "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight", "model.layers.2.mlp.up_proj.weight",
                           "model.layers.2.mlp.down_proj.weight"}) {
    EXPECT_NE(tensor_of("a/student", name), tensor_of("a/student-init", name)) << name;
  }
  for (const char* name : {"model.layers.0.mixer.k_proj.weight", "model.layers.1.self_attn.k_proj.weight", "model.layers.2.mlp.gate_proj.weight",
                           "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"}) {
    EXPECT_EQ(tensor_of("a/student", name), tensor_of("a/student-init", name)) << name;
  }
  for (const int rows : {4, 15}) {  // with LoRA layer by layer, and end to end
    const auto words = with("b", {"--set", "checkpoint_minutes=1e-9"});
    kill_run(words, rows);
    auto go_on = words;
    go_on.push_back("--resume");
    ASSERT_EQ(run(go_on), 0) << err();
    EXPECT_TRUE(weights("b") == weights("a")) << rows;
  }
  ASSERT_EQ(run(with("never", {"--dry-run", "--json"})), 0) << err();
  const auto d = nlohmann::json::parse(retort::test::read_file(folder_ / "out.txt"));
  // Width 32, MLPs of 48, two kv heads of 8: q and v of three layers, up and down of three.
  EXPECT_EQ(d["stages"][1]["parameters_trained"], 3 * 3 * ((32 + 32) + (16 + 32) + 2 * (48 + 32)));
  EXPECT_EQ(d["stages"][1]["lora"]["matrices"], 12);
  const std::pair<const char*, const char*> wrong[] = {{"kd.train=[mixers, {lora: {on: [q]}}]", "q_proj.weight trains itself, and has LoRA"},
                                                       {"kd.train={lora: {on: [qq]}}", "is called 'qq'"}};
  for (const auto& [set, what] : wrong) {
    EXPECT_EQ(run(with("never", {"--set", set})), 2);
    EXPECT_NE(err().find(what), std::string::npos) << err();
    EXPECT_FALSE(std::filesystem::exists(folder_ / "never"));
  }
}

// Layers of a model of its own, trained end to end against a teacher of another depth.
// What an earlier run has trained outside the mixers stays, also where this run does not train it, and over a resume.
TEST_F(TrainMainTest, AStudentStartsFromAllThatIsInItsFolder) {
  ASSERT_EQ(run({"--out", folder_ / "a", "--set", "kd.train=[all]", "--set", "kd.lr=1e-2"}), 0) << err();
  ASSERT_EQ(run({"--out", folder_ / "c", "--start", folder_ / "a/student"}), 0) << err();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}) {
    EXPECT_EQ(tensor_of("c/student", name), tensor_of("a/student", name)) << name;
  }
  std::vector<std::string> pieces = {"--out", folder_ / "b", "--start", folder_ / "a/student", "--set", "checkpoint_minutes=1e-9"};
  EXPECT_TRUE(run_until(pieces, SIGKILL, 5)) << "no signal came in time";
  pieces.push_back("--resume");
  ASSERT_EQ(run(pieces), 0) << err();
  EXPECT_EQ(weights("c"), weights("b"));
}

TEST_F(TrainMainTest, ADraftHasItsOwnDepthAndStartsFromItsFolder) {
  ModelConfig config = retort::test::tiny_config();
  config.layers = 2;
  config.plan = attention_plan(config);
  ASSERT_TRUE(retort::test::write_random_model(folder_ / "draft", config, 9).ok());  // not the teacher's values, in the body either
  retort::test::write_file(folder_ / "draft.yaml", R"(name: draft
save_init: true
student: {mixer: attention, start: here}
data: {held_out: 0.1}
stages:
- {name: kd, loss: {logits: {form: kl}}, train: [all], seq: 48, batch: 2, steps: 16, lr: 2e-3, clip: 1, schedule: cosine}
)");
  const auto arguments = [&](const std::string& out, std::vector<std::string> more = {}) {
    std::vector<std::string> words = {folder_ / "draft.yaml", "--out", folder_ / out, "--start", folder_ / "draft"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  ASSERT_EQ(run(arguments("d")), 0) << err();
  const auto student = open_model(folder_ / "d/student");
  ASSERT_TRUE(student.ok()) << student.error().message;
  EXPECT_EQ(student->config.layers, 2);
  EXPECT_TRUE(is_plain_transformer(student->config));
  EXPECT_EQ(student->config.provenance["recipe"]["name"], "draft");
  const auto start = open_model(folder_ / "draft");
  for (const auto& spec : model_tensors(config)) {
    const auto given = read_f32(*start->weights->tensor(spec.name)), began = read_f32(*open_model(folder_ / "d/student-init")->weights->tensor(spec.name));
    ASSERT_EQ(given->size(), began->size());
    for (size_t i = 0; i < given->size(); ++i) ASSERT_NEAR((*began)[i], (*given)[i], std::abs((*given)[i]) / 256) << spec.name << ", in bf16";
    EXPECT_NE(tensor_of("d/student", spec.name), tensor_of("d/student-init", spec.name)) << spec.name << " trains";
  }
  const auto losses = losses_of("d");
  ASSERT_EQ(losses.size(), 16u);
  EXPECT_LT(losses[14] + losses[15], 0.9 * (losses[0] + losses[1]));

  const auto in_pieces = arguments("b", {"--set", "checkpoint_minutes=1e-9"});
  auto go_on = in_pieces;
  go_on.push_back("--resume");
  kill_run(in_pieces, 5);
  ASSERT_EQ(run(go_on), 0) << err();
  EXPECT_EQ(weights("b"), weights("d"));

  // What is frozen stays what the folder says, not what the teacher has.
  ASSERT_EQ(run(arguments("f", {"--set", "kd.train=[mlp]", "--set", "kd.steps=3"})), 0) << err();
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"}) {
    EXPECT_EQ(tensor_of("f/student", name), tensor_of("d/student-init", name)) << name;
  }
  EXPECT_NE(tensor_of("f/student", "model.layers.1.mlp.up_proj.weight"), tensor_of("d/student-init", "model.layers.1.mlp.up_proj.weight"));

  config.mlp_width = 40;
  ASSERT_TRUE(retort::test::write_random_model(folder_ / "narrow", config).ok());
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"--set", "kd.loss=attn_out"}, "stage 'kd' compares layer by layer"},
      {{"--keep", "heads:1"}, "student.keep is heads:1"},
      {{"--set", "student.stepwise=one_by_one"}, "student.stepwise replaces attention of the teacher's layers"},
      {{"--start", folder_ / "narrow"}, "only the number of layers may differ"},
      {{"--set", "student.layers=[{layers: 2, mixer: gla}]"}, "names layer 2; the model has layers 0 to 1"},
      {{"--mixer", "gla"}, "layer 0 is not mixer 'gla'"}};
  for (const auto& [flags, what] : wrong) {
    auto words = arguments("never");
    if (flags[0] == "--start") words.resize(3);
    words.insert(words.end(), flags.begin(), flags.end());
    for (const bool dry : {false, true}) {
      if (dry) words.push_back("--dry-run");
      if (dry && std::string(what).find("is not mixer") != std::string::npos) continue;  // the folder's weights are not looked at
      EXPECT_EQ(run(words), 2) << what;
      const auto lines = err();
      EXPECT_NE(lines.find(what), std::string::npos) << lines;
      EXPECT_FALSE(std::filesystem::exists(folder_ / "never")) << what;
    }
  }
}

TEST_F(TrainMainTest, InterruptedAndKilledAndResumedBitForBit) {
  ASSERT_EQ(run({"--out", folder_ / "a"}), 0) << err();
  const std::vector<std::string> start = {"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9"};
  auto go_on = start;
  go_on.push_back("--resume");
  int stopped = 0;
  stopped += run_until(start, SIGINT, 4);
  stopped += run_until(go_on, SIGKILL, 8);
  stopped += run_until(go_on, SIGINT, 14);
  EXPECT_GT(stopped, 0) << "no signal came in time";
  ASSERT_EQ(run(go_on), 0) << err();
  EXPECT_TRUE(weights("b") == weights("a"));
  ASSERT_EQ(run({"--out", folder_ / "one", "--threads", "1"}), 0) << err();
  EXPECT_TRUE(weights("one") == weights("a")) << "the number of threads changes nothing";
}

// Each loss and each group of tensors outside the mixers: the loss falls, what is named changes, what is not stays, and a killed run
// goes on to the same bits.
TEST_F(TrainMainTest, EveryLossFallsAndResumesBitForBit) {
  const std::string up = "model.layers.1.mlp.up_proj.weight", norm = "model.layers.1.input_layernorm.weight",
                    embedding = "model.embed_tokens.weight", query = "model.layers.1.mixer.q_proj.weight";
  struct Case {
    const char* loss;
    const char* train;
    std::vector<std::string> changed, kept;
  };
  const Case cases[] = {{"{hidden: 1}", "[mixers, mlp, norms]", {query, up, norm}, {embedding}},
                        {"{attn_out: {form: mse}, hidden: {form: relative}}", "[mixers]", {query}, {up, norm, embedding}},
                        {"{logits: {form: ce, temperature: 2}}", "[mixers, mlp]", {query, up}, {norm, embedding}},
                        {"{ce: 1}", "[norms, embeddings]", {norm, embedding}, {query, up}},
                        {"{logits: 1, ce: 1}", "all", {query, up, norm, embedding}, {}}};
  // Every row is this text: losses do not depend on the batch.
  retort::test::write_file(folder_ / "one.txt", "The river has 7 stones, and a house of 48 bytes.");
  int killed = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.loss);
    for (const char* name : {"a", "b"}) std::filesystem::remove_all(folder_ / name);
    retort::test::write_file(folder_ / "tiny.yaml",
                             cat("name: tiny\nsave_init: true\ncheckpoint_minutes: 0\n"
                                 "student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}}\n"
                                 "data: {held_out: 0, calibration_tokens: 512}\nstages:\n"
                                 "- {name: only, loss: ", c.loss, ", train: ", c.train,
                                 ", seq: 48, batch: 2, steps: 30, lr: 2e-3, clip: 1}\n"));
    ASSERT_EQ(run({"--out", folder_ / "a", "--data", folder_ / "one.txt"}), 0) << err();
    const auto losses = losses_of("a");
    ASSERT_EQ(losses.size(), 30u);
    EXPECT_LT(std::accumulate(losses.end() - 8, losses.end(), 0.0), std::accumulate(losses.begin(), losses.begin() + 8, 0.0));
    for (const auto& name : c.changed) EXPECT_FALSE(tensor_of("a/student", name) == tensor_of("a/student-init", name)) << name;
    for (const auto& name : c.kept) EXPECT_TRUE(tensor_of("a/student", name) == tensor_of("a/student-init", name)) << name;
    const std::vector<std::string> start = {"--out", folder_ / "b", "--data", folder_ / "one.txt", "--set", "checkpoint_minutes=1e-9"};
    killed += run_until(start, SIGKILL, 5);
    auto go_on = start;
    go_on.push_back("--resume");
    ASSERT_EQ(run(go_on), 0) << err();
    EXPECT_TRUE(weights("b") == weights("a"));
    EXPECT_EQ(losses_of("b"), losses);
  }
  EXPECT_GT(killed, 0) << "no signal came in time";
}

// Answers, then pairs of them against the student as it was: kills in either stage, and between, change no bit.
TEST_F(TrainMainTest, ChatsAndPairsAreLearntAndResumedBitForBit) {
  retort::test::write_file(folder_ / "teacher/tokenizer.json", retort::test::chat_tokenizer_json());
  retort::test::write_file(folder_ / "teacher/tokenizer_config.json", retort::test::chat_tokenizer_config());
  std::string chats, pairs;
  for (int d = 0; d < 8; ++d) {
    const std::string question = cat("What is ", d, "?"), answer = cat("It is ", d * d, ".");
    chats += nlohmann::json{{"messages", {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", answer}}}}}.dump() + "\n";
    pairs += nlohmann::json{{"prompt", question}, {"chosen", answer}, {"rejected", cat("No ", d)}}.dump() + "\n";
  }
  retort::test::write_file(folder_ / "chats.jsonl", chats);
  retort::test::write_file(folder_ / "pairs.jsonl", pairs);
  retort::test::write_file(folder_ / "tiny.yaml",
                           cat("name: chats\nsave_init: true\ncheckpoint_minutes: 0\n"
                               "student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}}\n"
                               "data: {held_out: 0, calibration_tokens: 512, train: [", folder_ / "chats.jsonl", ", {file: ", folder_ / "pairs.jsonl", ", weight: 0.5}]}\n"
                               "defaults: {seq: 80, batch: 4, lr: 2e-3, clip: 1}\nstages:\n"
                               "- {name: sft, loss: {ce: 1, logits: {weight: 0.1, mask: labels}}, train: [mixers, norms], steps: 20}\n"
                               "- {name: dpo, loss: {dpo: {beta: 0.3, reference: start}}, train: [mixers, mlp], steps: 16, ema: 0.5}\n"));
  const auto at = [&](std::vector<std::string> more) { return more.insert(more.end(), {"--data", folder_ / "chats.jsonl"}), more; };
  ASSERT_EQ(run(at({"--out", folder_ / "a"})), 0) << err();
  const auto losses = losses_of("a");
  ASSERT_EQ(losses.size(), 36u);
  EXPECT_LT(losses[18] + losses[19], losses[0] + losses[1]);
  EXPECT_EQ(losses[20], std::log(2.0)) << "the first step compares the student with itself";
  EXPECT_LT(losses[34] + losses[35], 2 * std::log(2.0) - 0.1);
  std::istringstream rows(retort::test::read_file(folder_ / "a/metrics.jsonl"));
  nlohmann::json row;
  for (std::string line; std::getline(rows, line);) row = nlohmann::json::parse(line);
  EXPECT_GE(row["accuracy"].get<double>(), 0.75);
  EXPECT_GT(row["reward_chosen"].get<double>(), row["reward_rejected"].get<double>());
  EXPECT_LT(row["tokens"].get<int64_t>(), 20 * 4 * 80 + 16 * 8 * 80) << "padding is not counted";

  const std::vector<std::string> start = at({"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9"});
  auto go_on = start;
  go_on.push_back("--resume");
  int stopped = run_until(start, SIGKILL, 6);
  stopped += run_until(go_on, SIGKILL, 22);
  stopped += run_until(go_on, SIGINT, 28);
  EXPECT_GT(stopped, 0) << "no signal came in time";
  ASSERT_EQ(run(go_on), 0) << err();
  EXPECT_TRUE(weights("b") == weights("a"));
  EXPECT_EQ(losses_of("b"), losses);
}

TEST_F(TrainMainTest, ASecondTeacherIsNamedAndComesAtTheSameStepAgain) {
  ModelConfig config = retort::test::tiny_config();
  config.layers = 5, config.width = 48, config.vocab_size = 272;
  config.plan = attention_plan(config);
  ASSERT_TRUE(retort::test::write_random_model(folder_ / "big", config, 9).ok());
  const auto at = [&](const std::string& out, std::vector<std::string> more) {
    more.insert(more.end(), {"--out", folder_ / out, "--set", cat("kd.switch_teacher={to: ", folder_ / "big", ", when: {step: 3}}")});
    return more;
  };
  ASSERT_EQ(run(at("a", {})), 0) << err();
  const auto train = nlohmann::json::parse(retort::test::read_file(folder_ / "a/train.json"));
  const auto& second = train["stages"][1]["second_teacher"];
  EXPECT_EQ(second["name"], "big");
  EXPECT_EQ(second["after_steps"], 3);
  EXPECT_EQ(open_model(folder_ / "a/student")->config.provenance["stages"][1]["second_teacher"], second);
  std::istringstream rows(retort::test::read_file(folder_ / "a/metrics.jsonl"));
  for (std::string line; std::getline(rows, line);) {
    const auto row = nlohmann::json::parse(line);
    ASSERT_EQ(row.contains("teacher"), row["stage"] == "kd");
    if (row["stage"] == "kd") {
      EXPECT_EQ(row["teacher"], row["step"] > 3 ? folder_ / "big" : folder_ / "teacher");
    }
  }
  ASSERT_EQ(run(at("dry", {"--dry-run"})), 0) << err();
  EXPECT_NE(retort::test::read_file(folder_ / "out.txt").find(cat("big (", second["hash"].get<std::string>(), "), 5 layers of width 48")), std::string::npos);
  const auto pieces = at("b", {"--set", "checkpoint_minutes=1e-9"});
  auto go_on = pieces;
  go_on.push_back("--resume");
  EXPECT_TRUE(run_until(pieces, SIGKILL, 16)) << "no signal came in time";
  ASSERT_EQ(run(go_on), 0) << err();
  EXPECT_TRUE(weights("b") == weights("a"));
  EXPECT_EQ(losses_of("b"), losses_of("a"));

  auto tokenizer = nlohmann::ordered_json::parse(retort::test::byte_tokenizer_json());
  auto& vocabulary = tokenizer["model"]["vocab"];
  std::swap(vocabulary["A"], vocabulary["B"]);
  retort::test::write_file(folder_ / "big/tokenizer.json", tokenizer.dump());
  EXPECT_EQ(run(at("never", {})), 2);
  EXPECT_NE(err().find("big: token 65 is 'B', the first teacher's 'A'; a second teacher needs the same tokens\n"), std::string::npos) << err();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "never"));
}

TEST_F(TrainMainTest, LogitsAreKeptAndReadAgain) {
  const auto at = [&](const std::string& out, std::vector<std::string> more) {
    more.insert(more.end(), {"--out", folder_ / out, "--set", cat("kd.loss={logits: {form: kl, top_k: 12, cache: ", folder_ / "cache", "}, ce: 0.1}")});
    return more;
  };
  const auto rows = [&] { return retort::test::read_file(folder_ / "cache/rows.bin"); };
  const auto pieces = at("b", {"--set", "checkpoint_minutes=1e-9"});
  auto go_on = pieces;
  go_on.push_back("--resume");
  EXPECT_TRUE(run_until(pieces, SIGKILL, 16)) << "no signal came in time";
  ASSERT_EQ(run(go_on), 0) << err();
  const std::string kept = rows();
  EXPECT_EQ(kept.size(), size_t(8 * 2 * 2) * (16 + 48 * (12 * 4 + 2))) << "8 steps of two batches of two rows";
  ASSERT_EQ(run(at("a", {})), 0) << err();   // reads what b has written
  EXPECT_TRUE(rows() == kept);
  EXPECT_TRUE(weights("a") == weights("b"));
  EXPECT_EQ(losses_of("a"), losses_of("b"));
  ASSERT_EQ(run(at("c", {"--mixer", "gla", "--set", "student.config={}", "--set", "kd.steps=10"})), 0) << err();   // another student, and further
  EXPECT_EQ(rows().substr(0, kept.size()), kept);
  EXPECT_EQ(rows().size(), kept.size() * 10 / 8);
  EXPECT_EQ(run(at("never", {"--set", "seed=6"})), 2);
  EXPECT_NE(err().find("stage 'kd': "), std::string::npos) << err();
  EXPECT_NE(err().find("logits of something else than this stage asks for: seed: 5 -> 6;"), std::string::npos) << err();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "never"));
}

TEST_F(TrainMainTest, ADryRunCountsEpochs) {
  ASSERT_EQ(run({"--out", folder_ / "dry", "--dry-run", "--json", "--set", "kd.epochs=2"}), 0) << err();
  const auto d = nlohmann::json::parse(retort::test::read_file(folder_ / "out.txt"), nullptr, false);
  ASSERT_TRUE(d.is_object());
  const int64_t tokens = d["stages"][1]["epoch_tokens"];
  EXPECT_GT(tokens, 10000);
  EXPECT_EQ(d["stages"][1]["steps"], (2 * tokens + 191) / 192);
  ASSERT_EQ(run({"--out", folder_ / "dry", "--dry-run", "--set", "kd.epochs=2"}), 0) << err();
  EXPECT_NE(retort::test::read_file(folder_ / "out.txt").find("2 epochs of "), std::string::npos);
}

TEST_F(TrainMainTest, ChatsNeedATemplate) {
  retort::test::write_file(folder_ / "chats.jsonl", "{\"text\": \"x\"}\n{\"prompt\": \"a\", \"response\": \"b\"}\n");
  EXPECT_EQ(run({"--out", folder_ / "a", "--data", folder_ / "chats.jsonl", "--set", "data.held_out=0"}), 2);
  EXPECT_NE(err().find("chats.jsonl:2: a conversation, but the teacher's tokenizer has no chat template"), std::string::npos) << err();
  retort::test::write_file(folder_ / "chats.jsonl", "{\"text\": \"x\"}\n{\"body\": \"a\"}\n");
  EXPECT_EQ(run({"--out", folder_ / "a", "--data", folder_ / "chats.jsonl", "--set", "data.held_out=0"}), 2);
  EXPECT_NE(err().find("chats.jsonl:2: no key that says what it is; expected \"text\", \"messages\""), std::string::npos) << err();
}

TEST_F(TrainMainTest, BadInputIsOneLineAndCodeTwo) {
  retort::test::write_file(folder_ / "empty.jsonl", "");
  retort::test::write_file(folder_ / "binary.txt", std::string(5000, '\x01') + "\xff\xfe");
  retort::test::write_file(folder_ / "plain.jsonl.zst", retort::test::tiny_corpus());
  const std::string out = folder_ / "never";
  const std::vector<std::vector<std::string>> wrong = {
      {"--out", out, "--mixer", "mambo"},
      {"--out", out, "--window", "many"},
      {"--out", out, "--keep", "some"},
      {"--out", out, "--set", "align.speed=3"},
      {"--out", out, "--set", "alignn.lr=3"},
      {"--out", out, "--set", "align.loss={magic: 1}"},
      {"--out", out, "--set", "nonsense"},
      {"--out", out, "--data", folder_ / "empty.jsonl"},
      {"--out", out, "--data", folder_ / "binary.txt"},
      {"--out", out, "--data", folder_ / "vanished.jsonl"},
      {"--out", out, "--start", folder_ / "nobody"},
      {"--out", out, "--teacher", folder_ / "nobody"},
      {"--out", out, "--teacher", folder_ / "corpus.jsonl"},
      {"--out", out, "--keep", "list:99"},
      {"--out", out, "--keep", "heads:1000"},
      {"--out", out, "--minutes", "3"},
      {"--out", out, "--frobnicate"},
      {"--out", out, "--resume"},
      {"--out", out, "--set", "kd.seq=40000"},
      {"--out", out, "--set", "kd.steps=0"},
      {"--out", out, "--set", "data.calibration_tokens=1e13"},
      {"--out", out, "--data", folder_ / "plain.jsonl.zst"},
      {"--out", folder_ / "corpus.jsonl"},
      {"--out", "/proc/nowhere/run"},
      {},
  };
  for (const auto& arguments : wrong) {
    std::string words;
    for (const auto& word : arguments) words += " " + word;
    EXPECT_EQ(run(arguments), 2) << words << "\n" << err();
    const auto text = err();
    EXPECT_EQ(text.rfind("retort: error: ", 0), 0u) << words << "\n" << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << words << "\n" << text;
    EXPECT_FALSE(std::filesystem::exists(out)) << words;
  }
}

TEST_F(TrainMainTest, DryRunWritesNothing) {
  ASSERT_EQ(run({"--out", folder_ / "dry", "--dry-run", "--json"}), 0) << err();
  const auto d = nlohmann::json::parse(retort::test::read_file(folder_ / "out.txt"), nullptr, false);
  ASSERT_TRUE(d.is_object());
  EXPECT_EQ(d["stages"].size(), 2u);
  EXPECT_EQ(d["stages"][0]["steps"], 12);
  EXPECT_GT(d["stages"][0]["parameters_trained"], 1000);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "dry"));
  // What was measured, and what the text is.
  for (const auto& stage : d["stages"]) {
    EXPECT_GT(stage["step_seconds"], 0.0);
    EXPECT_NEAR(stage["expected_seconds"].get<double>(), stage["step_seconds"].get<double>() * stage["steps"].get<double>(), 1e-9);
    EXPECT_EQ(stage["expected_tokens"], stage["tokens"]);
  }
  EXPECT_GT(d["expected"]["peak_bytes"], 10000000);
  const auto text = retort::test::read_file(folder_ / "corpus.jsonl");
  EXPECT_EQ(d["data"]["files"][0]["sha256"], sha256_hex(text));
  const double tokens = d["data"]["sources"][0]["tokens_estimated"], bytes = d["data"]["sources"][0]["text_bytes"];
  EXPECT_NEAR(tokens / bytes, 1, 0.05) << "the tiny teacher has a token a byte";
  ASSERT_EQ(run({"--out", folder_ / "dry", "--dry-run"}), 0) << err();
  const auto lines = retort::test::read_file(folder_ / "out.txt");
  for (const char* what : {"attn_out (relative)", "logits (kl) + ce (hard) * 0.1", "SHA-256 ", "a step takes ", "disk ", "memory ", "time "}) {
    EXPECT_NE(lines.find(what), std::string::npos) << what << "\n" << lines;
  }
}

// The sizes on disk are those that a dry run says.
TEST_F(TrainMainTest, DryRunKnowsWhatACheckpointTakes) {
  ASSERT_EQ(run({"--out", folder_ / "dry", "--dry-run", "--json"}), 0) << err();
  const auto d = nlohmann::json::parse(retort::test::read_file(folder_ / "out.txt"));
  ASSERT_TRUE(run_until({"--out", folder_ / "b", "--set", "checkpoint_minutes=1e-9"}, SIGINT, 4));
  uintmax_t largest = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "b/checkpoints")) {
    if (entry.path().filename() == "tensors.safetensors") largest = std::max(largest, entry.file_size());
  }
  const double expected = d["disk"]["checkpoint_bytes"];
  EXPECT_GT(double(largest), 0.9 * expected);
  EXPECT_LT(double(largest), 1.1 * expected + 20000) << "with its header";
}

TEST_F(TrainMainTest, DryRunRefusesWhatCannotWork) {
  retort::test::write_file(folder_ / "file", "x");
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--set", "align.schedule={wsd: {warmup_steps: 13}}"}, "'warmup_steps' is 13"},
      {{"--set", "align.train=['*.nothing.*']"}, "no tensor of this student is called '*.nothing.*'"},
      {{"--set", "kd.seq=100000"}, "kd.seq is 100000; the teacher was made for"},
      {{"--keep", "heads:100"}, "student.keep is heads:100"},
      {{"--data", folder_ / "nowhere.jsonl"}, "nowhere.jsonl"},
      {{"--out", folder_ / "file/run"}, "is a file"},
      {{"--out", folder_.str()}, "not empty, and no run of retort"},
      {{"--out", "/proc/run"}, "/proc"},
  };
  for (const auto& [flags, what] : cases) {
    auto words = flags;
    if (std::find(words.begin(), words.end(), "--out") == words.end()) words.insert(words.end(), {"--out", folder_ / "never"});
    words.push_back("--dry-run");
    EXPECT_EQ(run(words), 2) << what;
    const std::string lines = err();
    EXPECT_NE(lines.find(what), std::string::npos) << what << ": " << lines;
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1) << lines;
    EXPECT_FALSE(std::filesystem::exists(folder_ / "never"));
  }
}

TEST_F(TrainMainTest, NoRoomOnTheDisk) {
  const auto code = run({"--out", folder_ / "full", "--set", "save_init=false"}, [] {
    const rlimit limit{20000, 20000};  // less than the student
    setrlimit(RLIMIT_FSIZE, &limit);
  });
  EXPECT_EQ(code, 2);
  // Late: lines of progress come first, then the one line about the error, and standard output has nothing.
  const std::string text = err();
  EXPECT_NE(text.find("tiny: align"), std::string::npos) << text;
  const auto error = text.rfind("retort: error: ");
  ASSERT_NE(error, std::string::npos) << text;
  EXPECT_EQ(text.find("retort: error: "), error) << text;
  EXPECT_EQ(text.find('\n', error), text.size() - 1) << text;
  EXPECT_NE(text.find("cannot write", error), std::string::npos) << text;
  EXPECT_EQ(retort::test::read_file(folder_ / "out.txt"), "");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "full/student"));
}

}  // namespace
}  // namespace retort::train
