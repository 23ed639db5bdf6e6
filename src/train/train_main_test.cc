// The whole program, in this process, on a tiny teacher: flags to written student.
#include <numeric>
#include <sys/resource.h>

#include "base/sha256.h"
#include "support/train_program.h"

namespace retort::train {
namespace {

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

TEST_F(TrainMainTest, AnInstructionSetThatIsNotHereIsRefused) {
  EXPECT_EQ(run({"--out", folder_ / "a"}, [] { ::setenv("RETORT_ISA", "sse9", 1); }), 2);
  EXPECT_EQ(err().rfind("retort: error: RETORT_ISA=sse9: not an instruction set of this machine, which has scalar", 0), 0u) << err();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a"));
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

TEST_F(TrainMainTest, RowsThatAWindowHoldsWholeAreAWarning) {
  const char* line = "align.seq is 10, and the window before 'slots' of 8 tokens and 2 sinks";
  ASSERT_EQ(run({"--out", folder_ / "a", "--dry-run", "--set", "align.seq=10"}), 0) << err();
  EXPECT_NE(retort::test::read_file(folder_ / "out.txt").find(cat("warning  ", line)), std::string::npos) << retort::test::read_file(folder_ / "out.txt");
  ASSERT_EQ(run({"--out", folder_ / "a", "--set", "align.seq=10"}), 0) << err();
  EXPECT_NE(err().find(cat("retort: warning: ", line)), std::string::npos) << err();
  ASSERT_EQ(run({"--out", folder_ / "b"}), 0) << err();
  EXPECT_EQ(err().find("warning"), std::string::npos) << err();
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
