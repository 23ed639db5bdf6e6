// Text to train and measure on: .txt (a file is a document) and .jsonl (a line is a document), plain, gzip or zstd.
//
// Layer: io. A reader belongs to one thread; files are read as a stream, in order.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/chat_template.h"

namespace retort {

struct CorpusDocument {
  std::string text;                   // of a chat: what render_chat made of it, else its contents with blank lines between
  std::vector<ChatMessage> messages;  // a chat's, or of a preference pair the prompt and the chosen answer; otherwise empty
  std::vector<ChatMessage> rejected;  // a pair's: the same prompt and the other answer; otherwise empty
  std::string where;                  // "corpus.jsonl:12"
};

struct CorpusOptions {
  std::function<Result<std::string>(const std::vector<ChatMessage>&)> render_chat;
  size_t max_document_bytes = size_t(1) << 30;
  size_t max_total_bytes = size_t(8) << 30;  // read_corpus only
};

// A line of a .jsonl has "text"; or "messages": [{"role", "content"}, ...]; or "prompt" and "response"; or, as a preference pair,
// "chosen" and "rejected" with "prompt". A prompt is a string (the user's) or messages; chosen and rejected are strings, messages of
// the assistant that follow the prompt, or whole conversations that differ in their last message only. Other keys are ignored.
// Errors name file and line: binary data, invalid UTF-8, bad JSON, a missing field, a broken archive, no document at all.
class CorpusReader {
 public:
  static Result<CorpusReader> open(const std::string& path, CorpusOptions options = {});
  // For tests and fuzzing: content in memory, `name` says what it is ("a.jsonl", "a.txt.gz").
  static Result<CorpusReader> from_memory(std::string content, const std::string& name, CorpusOptions options = {});
  CorpusReader(CorpusReader&&) noexcept;
  CorpusReader& operator=(CorpusReader&&) noexcept;
  ~CorpusReader();

  // The next document, or nothing at the end.
  Result<std::optional<CorpusDocument>> next();

 private:
  struct Impl;
  explicit CorpusReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The files that these paths name: a folder stands for its .txt and .jsonl files, sorted by name.
Result<std::vector<std::string>> corpus_files(const std::vector<std::string>& paths);

// All documents of all files, in order.
Result<std::vector<CorpusDocument>> read_corpus(const std::vector<std::string>& paths, CorpusOptions options = {});

}  // namespace retort
