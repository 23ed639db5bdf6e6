// chat, generate and perplexity on a tiny model with a chat template: what they refuse, and where they warn.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

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

// Rows of the head that no token has are the likeliest by far.
TEST_F(TinyChat, NothingButTokensIsDrawn) {
  const std::string padded = folder_ / "padded";
  ASSERT_TRUE(test::write_padded_model(padded).ok());
  for (const auto& more : std::vector<std::vector<std::string>>{{"--temp", "0"}, {"--temp", "2"}, {"--temp", "0", "--spec-type", "ngram"}, {"--temp", "1", "-md", padded}}) {
    std::vector<std::string> arguments{"generate", padded, "-p", "abab", "-n", "20", "--seed", "1", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto outcome = run(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto tokens = outcome.json()["tokens"];
    ASSERT_EQ(tokens.size(), 20u);
    for (const int token : tokens) EXPECT_LT(token, 256) << more[1];
  }
  test::write_file(padded + "/tokenizer_config.json", test::read_file(model_ + "/tokenizer_config.json"));
  std::filesystem::rename(padded, model_ + "2");
  std::filesystem::remove_all(model_);
  std::filesystem::rename(model_ + "2", model_);
  const auto talk = chat("hello\n", {"--json", "--temp", "0"});
  ASSERT_EQ(talk.code, 0) << talk.err;
  EXPECT_NE(talk.json()["turns"][0]["assistant"], "") << "an id without a token has no text";
}

// As transformers, lm-evaluation-harness and llama.cpp: the softmax is over all rows of the head, those that pad it too.
TEST_F(TinyChat, PerplexityIsOverAllRows) {
  const std::string padded = folder_ / "padded", text = folder_ / "text", dump = folder_ / "logits";
  ASSERT_TRUE(test::write_padded_model(padded).ok());
  const std::string words = "The river has stones.";
  test::write_file(text, words);
  const auto outcome = run({"perplexity", padded, "--text", text, "--dump-logits", dump, "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string bytes = test::read_file(dump);
  ASSERT_EQ(bytes.size(), words.size() * 260 * sizeof(float));
  double sum = 0;
  for (size_t t = 0; t + 1 < words.size(); ++t) {
    std::vector<float> row(260);
    std::memcpy(row.data(), bytes.data() + t * 260 * sizeof(float), 260 * sizeof(float));
    const double most = *std::max_element(row.begin(), row.end());
    double mass = 0;
    for (const float logit : row) mass += std::exp(double(logit) - most);
    sum += most + std::log(mass) - double(row[static_cast<unsigned char>(words[t + 1])]);
  }
  const double expected = sum / double(words.size() - 1);
  EXPECT_NEAR(outcome.json()["nll"].get<double>(), expected, 1e-5 * expected);
  EXPECT_GT(expected, 100) << "of the tokens alone it would be near ln 256";
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
