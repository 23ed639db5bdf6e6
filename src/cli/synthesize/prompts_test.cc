#include "cli/synthesize/prompts.h"

#include <gtest/gtest.h>

#include "test_files.h"

namespace retort::cli {
namespace {

// "user:a|assistant:b" a prompt; or the error.
std::vector<std::string> texts(const std::string& content, const std::string& name = "p.jsonl") {
  const auto read = read_prompts(content, name);
  if (!read.ok()) return {read.error().message};
  std::vector<std::string> out;
  for (const auto& prompt : *read) {
    std::string text;
    for (const auto& message : prompt.messages) text += cat(text.empty() ? "" : "|", message.role, ":", message.content);
    out.push_back(text);
  }
  return out;
}
using Texts = std::vector<std::string>;

TEST(SynthesisPrompts, ComeFromMessagesPromptsAndLines) {
  EXPECT_EQ(texts(R"({"prompt": "a"}

{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "prompt": "not this"}
{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}
{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]})"),
            (Texts{"user:a", "system:s|user:u", "user:u", "user:u|assistant:a|user:v"}));
  EXPECT_EQ(texts("one\r\n\n  two\nthree", "p.txt"), (Texts{"user:one", "user:  two", "user:three"}));
  const auto read = read_prompts("one\n\ntwo\n", "p.txt");
  EXPECT_EQ((*read)[1].where, "p.txt:3");
}

TEST(SynthesisPrompts, BadOnesNameThePlace) {
  const auto error = [](const std::string& content, const std::string& name = "p.jsonl") { return texts(content, name).front(); };
  EXPECT_EQ(error("{\"prompt\": \"a\"}\n{}"), "p.jsonl:2: a prompt has 'messages' or 'prompt'");
  EXPECT_EQ(error(R"({"prompt": 3})"), "p.jsonl:1: key 'prompt' must be a string");
  EXPECT_EQ(error(R"({"prompt": ""})"), "p.jsonl:1: key 'prompt' is empty");
  EXPECT_EQ(error(R"({"messages": "a"})"), "p.jsonl:1: key 'messages' must be a list of objects with role and content");
  EXPECT_EQ(error(R"({"messages": []})"), "p.jsonl:1: nothing stands in 'messages' before the last assistant's message");
  EXPECT_EQ(error(R"({"messages": [{"role": "assistant", "content": "a"}]})"), "p.jsonl:1: nothing stands in 'messages' before the last assistant's message");
  EXPECT_EQ(error(R"({"messages": [{"role": "user"}]})"), "p.jsonl:1: messages[0] must have 'content', a string");
  EXPECT_EQ(error(R"({"messages": [{"role": "user", "content": "a"}, 7]})"), "p.jsonl:1: messages[1] must have 'role', a string");
  EXPECT_EQ(error("[1]"), "p.jsonl:1: not a JSON object");
  EXPECT_NE(error("").find("empty"), std::string::npos);
  EXPECT_EQ(error("\n \n", "p.txt"), "p.txt: empty: there is no prompt in it");
  EXPECT_EQ(error("a\nb\xff", "p.txt"), "p.txt:2: not valid UTF-8 at byte 1");
  EXPECT_EQ(error("a", "p.csv"), "p.csv: prompts are lines of a .jsonl or a .txt, also .gz and .zst");
  EXPECT_NE(error("plain", "p.txt.gz").find("p.txt.gz"), std::string::npos) << "no archive";
}

TEST(SynthesisPrompts, Shards) {
  const auto whole = parse_shard(""), third = parse_shard("2/3");
  EXPECT_EQ(whole->index, 0);
  EXPECT_EQ(whole->count, 1);
  EXPECT_EQ(third->index, 2);
  EXPECT_EQ(third->count, 3);
  for (const char* text : {"3/3", "1", "/2", "1/", "a/2", "1/2/3", "-1/2", "0/0", "1/9999999999"}) EXPECT_FALSE(parse_shard(text).ok()) << text;
}

}  // namespace
}  // namespace retort::cli
