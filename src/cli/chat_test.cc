// chat, generate and perplexity on a tiny model with a chat template: what they refuse, and where they warn.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

class TinyChat : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(model_).ok());
    test::write_file(model_ + "/tokenizer_config.json",
                     R"({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{% for m in messages %}{{ m.content }};{% endfor %}"})");
  }

  Outcome chat(const std::string& input, std::vector<std::string> more = {}) {
    test::write_file(folder_ / "input", input);
    const int before = dup(STDIN_FILENO), file = open((folder_ / "input").c_str(), O_RDONLY);
    dup2(file, STDIN_FILENO);
    std::vector<std::string> arguments = {"chat", model_, "-n", "4", "--seed", "1", "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto outcome = run(std::move(arguments));
    dup2(before, STDIN_FILENO);
    close(before);
    close(file);
    return outcome;
  }
  static int warnings(const Outcome& outcome) {
    int count = 0;
    for (size_t at = 0; (at = outcome.err.find("retort: warning: up to ", at)) != std::string::npos; ++at) ++count;
    return count;
  }

  test::TempFolder folder_;
  const std::string model_ = folder_ / "model";
};

TEST_F(TinyChat, AnswersEveryLine) {
  const auto outcome = chat("hello\nthere\n", {"--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  ASSERT_EQ(outcome.json()["turns"].size(), 2u);
  EXPECT_EQ(outcome.json()["turns"][1]["user"], "there");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(TinyChat, GoingBackFeedsOnlyWhatIsNew) {
  const std::string input = "/regenerate\n" + std::string(60, 'a') + "\nsecond\n/regenerate\n/edit secret\n";
  const auto outcome = chat(input, {"--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "/regenerate: there is no answer yet\n");
  const auto turns = outcome.json()["turns"];
  ASSERT_EQ(turns.size(), 4u);
  EXPECT_EQ(turns[0]["cached_tokens"], 0);
  EXPECT_GT(turns[1]["cached_tokens"], 60);
  EXPECT_EQ(turns[2]["user"], "second");
  EXPECT_EQ(turns[2]["tokens_fed"], 1);  // the whole prompt is known: its last token makes the logits again
  EXPECT_EQ(turns[3]["user"], "secret");
  EXPECT_EQ(turns[3]["tokens_fed"], 4);  // "ret;"
  EXPECT_GT(outcome.json()["prefix_cache"]["hits"], 1);

  const auto off = chat(input, {"--json", "--cache-ram", "0"});
  ASSERT_EQ(off.code, 0) << off.err;
  EXPECT_EQ(off.json()["turns"][2]["assistant"], turns[2]["assistant"]);
  EXPECT_EQ(off.json()["prefix_cache"]["states"], 0);
  for (const char* budget : {"-1", "1e99", "nan", "99999999999999999999"}) {
    const auto refused = chat("hello\n", {"--cache-ram", budget});
    EXPECT_EQ(refused.code, 2) << budget;
    EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
  }
}

TEST_F(TinyChat, SpeculationChangesNothing) {
  const auto plain = chat("hello\nthere\n", {"--json", "--temp", "0"});
  const auto ngram = chat("hello\nthere\n", {"--json", "--temp", "0", "--spec-type", "ngram"});
  const auto draft = chat("hello\nthere\n", {"--json", "--temp", "0", "-md", model_});
  EXPECT_EQ(ngram.json()["turns"], plain.json()["turns"]) << ngram.err;
  EXPECT_EQ(draft.json()["turns"], plain.json()["turns"]) << draft.err;
  EXPECT_GT(draft.json()["speculation"]["accepted"], 1);
}

TEST_F(TinyChat, InvalidUtf8IsRefused) {
  auto outcome = chat("hello\nth\xff" "re\n", {"--json"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "retort: error: message 2: not valid UTF-8 at byte 2\n");
  EXPECT_EQ(outcome.out, "");
  outcome = chat("hello\n", {"--system-prompt", "be \xc3"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "retort: error: --system-prompt: not valid UTF-8 at byte 3\n");
}

TEST_F(TinyChat, WithoutATemplateTheHintNamesACommandThatExists) {
  test::write_file(model_ + "/tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast"})");
  const auto outcome = chat("hello\n");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "retort: error: the tokenizer has no chat template; `retort generate` continues plain text\n");
}

// The tiny model was made for 512 tokens, and its tokens are bytes.
TEST_F(TinyChat, WarnsOncePastTheContext) {
  EXPECT_EQ(warnings(chat(std::string(400, 'a') + "\n")), 0);
  EXPECT_EQ(warnings(chat(std::string(600, 'a') + "\nb\nc\n")), 1);
}

TEST_F(TinyChat, GenerateAndPerplexityWarnToo) {
  const auto generate = [&](const char* count) {
    return run({"generate", model_, "-p", "hello", "-n", count, "--seed", "1", "--threads", "1", "--ignore-eos", "--json"});
  };
  EXPECT_EQ(warnings(generate("500")), 0);
  EXPECT_EQ(warnings(generate("520")), 1);
  test::write_file(folder_ / "text", std::string(600, 'a'));
  test::write_file(folder_ / "short", std::string(500, 'a'));
  const auto perplexity = [&](const char* text, const char* window) {
    return run({"perplexity", model_, "--text", folder_ / text, "--ctx-size", window, "--threads", "1", "--json"});
  };
  EXPECT_EQ(warnings(perplexity("text", "512")), 0);
  EXPECT_EQ(warnings(perplexity("short", "2048")), 0);
  const auto past = perplexity("text", "2048");
  EXPECT_EQ(warnings(past), 1);
  EXPECT_EQ(past.json()["windows"], 1) << "the document stays whole: " << past.err;
}

}  // namespace
}  // namespace retort::cli
