#include "io/corpus.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace retort {
namespace {

std::string gzip(const std::string& text) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 200, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = uInt(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = uInt(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

struct Read {
  std::vector<CorpusDocument> documents;
  std::string error;
};

Read read(const std::string& content, const std::string& name, CorpusOptions options = {}) {
  Read out;
  auto reader = CorpusReader::from_memory(content, name, std::move(options));
  if (!reader.ok()) return {{}, reader.error().message};
  while (true) {
    auto document = reader->next();
    if (!document.ok()) return {std::move(out.documents), document.error().message};
    if (!document->has_value()) return out;
    out.documents.push_back(std::move(**document));
  }
}

const char* const kLines = "{\"text\": \"a\\u00e9\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, "
                           "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"r\"}]}]}\r\n{\"text\": \"last\"}";

TEST(Corpus, ReadsLinesPlainAndPacked) {
  for (const std::string& content : {std::string(kLines), gzip(kLines), zstd(kLines), gzip(std::string(kLines).substr(0, 25)) + gzip(std::string(kLines).substr(25))}) {
    const Read got = read(content, "x.jsonl");
    ASSERT_EQ(got.error, "");
    ASSERT_EQ(got.documents.size(), 3u);
    EXPECT_EQ(got.documents[0].text, "aé");
    EXPECT_EQ(got.documents[1].where, "x.jsonl:3");
    EXPECT_EQ(got.documents[1].text, "q\n\nr");
    ASSERT_EQ(got.documents[1].messages.size(), 2u);
    EXPECT_EQ(got.documents[1].messages[1].role, "assistant");
    EXPECT_EQ(got.documents[2].text, "last");
  }
}

std::string said(const std::vector<ChatMessage>& messages) {
  std::string out;
  for (const auto& m : messages) out += m.role + ":" + m.content + "|";
  return out;
}

TEST(Corpus, TheKeysOfALineSayWhatItIs) {
  struct Case {
    const char *line, *messages, *rejected;
  };
  const Case cases[] = {
      {R"({"prompt": "q", "response": "r"})", "user:q|assistant:r|", ""},
      {R"({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "response": "r"})", "system:s|user:q|assistant:r|", ""},
      {R"({"prompt": "q", "chosen": "good", "rejected": "bad"})", "user:q|assistant:good|", "user:q|assistant:bad|"},
      {R"({"prompt": "q", "chosen": [{"role": "assistant", "content": "good"}], "rejected": "bad"})", "user:q|assistant:good|", "user:q|assistant:bad|"},
      // As UltraFeedback has them: whole conversations, and other keys beside.
      {R"({"prompt": "q", "messages": [{"role": "user", "content": "x"}], "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
           "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}], "score_chosen": 8.5})",
       "user:q|assistant:good|", "user:q|assistant:bad|"},
      {R"({"text": "t", "messages": 5, "prompt": "q"})", "", ""},
  };
  for (const Case& c : cases) {
    std::string line = c.line;
    line.erase(std::remove(line.begin(), line.end(), '\n'), line.end());
    const Read got = read(line, "x.jsonl");
    ASSERT_EQ(got.error, "") << line;
    ASSERT_EQ(got.documents.size(), 1u);
    EXPECT_EQ(said(got.documents[0].messages), c.messages) << line;
    EXPECT_EQ(said(got.documents[0].rejected), c.rejected) << line;
  }
  EXPECT_EQ(read(cases[2].line, "x.jsonl").documents[0].text, "q\n\ngood") << "who only reads text reads the chosen answer";
}

TEST(Corpus, ManyLinesAcrossChunks) {
  std::string content;
  for (int i = 0; i < 20000; ++i) content += "{\"text\": \"" + std::string(size_t(i % 100), 'x') + std::to_string(i) + "\"}\n";
  const Read got = read(zstd(content), "x.jsonl.zst");
  ASSERT_EQ(got.error, "");
  ASSERT_EQ(got.documents.size(), 20000u);
  EXPECT_EQ(got.documents[19999].text, std::string(99, 'x') + "19999");
  EXPECT_EQ(got.documents[19999].where, "x.jsonl.zst:20000");
}

TEST(Corpus, AFileOfTextIsOneDocument) {
  const std::string text = "one\n\ntwo " + std::string(300'000, 'y');
  const Read got = read(gzip(text), "book.txt.gz");
  ASSERT_EQ(got.documents.size(), 1u) << got.error;
  EXPECT_EQ(got.documents[0].text, text);
}

TEST(Corpus, ErrorsSayWhere) {
  const std::tuple<std::string, const char*, const char*> cases[] = {
      {"", "x.jsonl", "empty"},
      {"\n \n", "x.jsonl", "empty"},
      {"", "x.txt", "empty"},
      {"{\"text\": \"a\"}\n{\"text\": 5}", "x.jsonl", "x.jsonl:2: \"text\""},
      {"{\"text\": \"a\"}\n{\"txt\": \"b\"}", "x.jsonl", "x.jsonl:2: no key that says what it is; expected \"text\", \"messages\", \"prompt\" with \"response\""},
      {"{\"text\": \"a\"}\n{\"text\": \"b\"", "x.jsonl", "x.jsonl:2: not a JSON"},
      {"{\"text\": \"\xff\"}", "x.jsonl", "x.jsonl:1: not valid UTF-8 at byte 10"},
      {std::string("{\"text\": \"\0\"}", 12), "x.jsonl", "x.jsonl:1: binary data"},
      {std::string("ab\0", 3), "x.txt", "binary data: a NUL at byte 2"},
      {"ab\xff", "x.txt", "not valid UTF-8 at byte 2"},
      {"{\"messages\": []}", "x.jsonl", "messages"},
      {"{\"messages\": [{\"role\": \"user\"}]}", "x.jsonl", "messages[0]"},
      {"{\"messages\": [{\"role\": \"user\", \"content\": 5}]}", "x.jsonl", "messages[0].content"},
      {R"({"prompt": "q"})", "x.jsonl", "x.jsonl:1: no key that says what it is"},
      {R"({"prompt": 3, "response": "r"})", "x.jsonl", "x.jsonl:1: \"prompt\" must be a string or a list of messages"},
      {R"({"prompt": "q", "response": null})", "x.jsonl", "\"response\" must be a string"},
      {R"({"prompt": "q", "chosen": "r"})", "x.jsonl", "x.jsonl:1: \"chosen\" without \"rejected\""},
      {R"({"chosen": "r", "rejected": "s"})", "x.jsonl", "x.jsonl:1: no \"prompt\""},
      {R"({"prompt": "q", "chosen": [{"role": "user", "content": "q"}], "rejected": "s"})", "x.jsonl", "the last message of \"chosen\" must be the assistant's"},
      {R"({"prompt": "q", "chosen": "r", "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "s"}]})", "x.jsonl",
       "differ before their last messages"},
  };
  for (const auto& [content, name, part] : cases) {
    const Read got = read(content, name);
    EXPECT_NE(got.error.find(part), std::string::npos) << content << ": '" << got.error << "'";
  }
}

TEST(Corpus, BrokenArchivesAreErrorsAtEveryCut) {
  for (const std::string& packed : {gzip(kLines), zstd(kLines)}) {
    for (size_t n = 4; n < packed.size(); ++n) EXPECT_NE(read(packed.substr(0, n), "x.jsonl").error, "") << n;
    std::string flipped = packed;
    flipped[packed.size() / 2] = char(flipped[packed.size() / 2] ^ 0x55);
    EXPECT_NE(read(flipped, "x.jsonl").error, "");
  }
}

TEST(Corpus, ANameThatPromisesPackingIsHeldToIt) {
  EXPECT_EQ(read(kLines, "x.jsonl.gz").error, "x.jsonl.gz: not gzip data, though its name says so");
  EXPECT_EQ(read("plain", "x.txt.zst").error, "x.txt.zst: not zstd data, though its name says so");
  EXPECT_EQ(read("", "x.txt.gz").error, "x.txt.gz: not gzip data, though its name says so");
  EXPECT_EQ(read(zstd(kLines), "x.jsonl.gz").documents.size(), 3u) << "the first bytes decide which of the two";
}

TEST(Corpus, BoundsADocument) {
  CorpusOptions options;
  options.max_document_bytes = 1000;
  EXPECT_NE(read(gzip(std::string(100'000, 'a')), "bomb.txt", options).error.find("more than 1000 bytes"), std::string::npos);
}

TEST(Corpus, RendersChats) {
  CorpusOptions options;
  options.render_chat = [](const auto& messages) -> Result<std::string> { return cat(messages.size(), " messages"); };
  EXPECT_EQ(read(kLines, "x.jsonl", options).documents.at(1).text, "2 messages");
  options.render_chat = [](const auto&) -> Result<std::string> { return invalid("no"); };
  EXPECT_EQ(read(kLines, "x.jsonl", options).error, "x.jsonl:3: no");
}

TEST(Corpus, AFolderIsReadInOrderOfNames) {
  const auto folder = std::filesystem::temp_directory_path() / cat("retort_corpus_", ::getpid());
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "b.txt") << "B";
  std::ofstream(folder / "a.jsonl") << "{\"text\": \"A\"}";
  std::ofstream(folder / "ignored.bin") << "x";
  const auto got = read_corpus({folder.string(), (folder / "b.txt").string()});
  ASSERT_TRUE(got.ok()) << got.error().message;
  ASSERT_EQ(got->size(), 3u);
  EXPECT_EQ((*got)[0].text + (*got)[1].text + (*got)[2].text, "ABB");
  EXPECT_FALSE(read_corpus({(folder / "absent.txt").string()}).ok());
  EXPECT_FALSE(read_corpus({}).ok());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace retort
