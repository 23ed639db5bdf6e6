#include "io/corpus.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/path.h"
#include "io/corpus_record.h"
#include "io/corpus_stream.h"
#include "io/utf8.h"

namespace retort {

using nlohmann::json;

namespace {

enum class Format { kText, kLines };

bool ends_with(const std::string& s, std::string_view end) {
  return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}

std::string without_packing(std::string name) {
  for (const char* end : {".gz", ".zst"}) {
    if (ends_with(name, end)) return name.substr(0, name.size() - std::string_view(end).size());
  }
  return name;
}

Format format_of(const std::string& name) {
  const std::string plain = without_packing(name);
  return ends_with(plain, ".jsonl") || ends_with(plain, ".ndjson") ? Format::kLines : Format::kText;
}

Status check_text(std::string_view text, const std::string& where) {
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return invalid(where, ": binary data: a NUL at byte ", nul, "; text is expected");
  }
  if (const size_t bad = utf8::first_invalid(text); bad != utf8::kValid) {
    return invalid(where, ": not valid UTF-8 at byte ", bad);
  }
  return {};
}

}  // namespace

struct CorpusReader::Impl {
  std::unique_ptr<ByteStream> bytes;
  std::string path;
  CorpusOptions options;
  Format format = Format::kText;
  std::string buffer;
  size_t start = 0;   // of what is not handed out yet
  size_t line = 0;
  size_t documents = 0;
  bool ended = false;

  // Reads more; false when there is no more.
  Result<bool> fill() {
    if (ended) return false;
    buffer.erase(0, start);
    start = 0;
    RETORT_TRY(const bool more, bytes->read(buffer));
    ended = !more;
    if (buffer.size() > options.max_document_bytes) {
      return invalid(path, format == Format::kLines ? cat(":", line + 1) : "", ": a document of more than ",
                     options.max_document_bytes, " bytes");
    }
    return more;
  }

  // The next line without its end.
  Result<bool> next_line(std::string_view& out) {
    size_t searched = start;
    while (true) {
      const size_t end = buffer.find('\n', searched);
      if (end != std::string::npos) {
        out = std::string_view(buffer).substr(start, end - start);
        start = end + 1;
        break;
      }
      searched = buffer.size() - start;
      RETORT_TRY(const bool more, fill());
      if (more) continue;
      if (start == buffer.size()) return false;
      out = std::string_view(buffer).substr(start);
      start = buffer.size();
      break;
    }
    ++line;
    if (!out.empty() && out.back() == '\r') out.remove_suffix(1);
    return true;
  }

  Result<std::optional<CorpusDocument>> next_text() {
    if (ended) return std::optional<CorpusDocument>();
    while (true) {
      RETORT_TRY(const bool more, fill());
      if (!more) break;
    }
    RETORT_RETURN_IF_ERROR(check_text(buffer, path));
    if (buffer.empty()) return std::optional<CorpusDocument>();
    CorpusDocument document;
    document.text = std::exchange(buffer, {});
    document.where = path;
    return std::optional<CorpusDocument>(std::move(document));
  }

  Result<std::optional<CorpusDocument>> next_record() {
    std::string_view text;
    do {
      RETORT_TRY(const bool more, next_line(text));
      if (!more) return std::optional<CorpusDocument>();
    } while (text.find_first_not_of(" \t\r") == std::string_view::npos);
    CorpusDocument document;
    document.where = cat(path, ":", line);
    RETORT_RETURN_IF_ERROR(check_text(text, document.where));
    const json record = json::parse(text, nullptr, false);
    RETORT_RETURN_IF_ERROR(read_record(record, document.where, document));
    if (!document.messages.empty()) RETORT_RETURN_IF_ERROR(render(document));
    return std::optional<CorpusDocument>(std::move(document));
  }

  Status render(CorpusDocument& document) const {
    if (options.render_chat) {
      auto text = options.render_chat(document.messages);
      if (!text.ok()) return Error{text.error().code, cat(document.where, ": ", text.error().message)};
      document.text = std::move(*text);
      return {};
    }
    for (const ChatMessage& m : document.messages) document.text += (document.text.empty() ? "" : "\n\n") + m.content;
    return {};
  }
};

CorpusReader::CorpusReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CorpusReader::CorpusReader(CorpusReader&&) noexcept = default;
CorpusReader& CorpusReader::operator=(CorpusReader&&) noexcept = default;
CorpusReader::~CorpusReader() = default;

Result<CorpusReader> CorpusReader::open(const std::string& path, CorpusOptions options) {
  auto impl = std::make_unique<Impl>();
  RETORT_TRY(impl->bytes, open_byte_stream(path));
  impl->path = path;
  impl->options = std::move(options);
  impl->format = format_of(path);
  return CorpusReader(std::move(impl));
}

Result<CorpusReader> CorpusReader::from_memory(std::string content, const std::string& name, CorpusOptions options) {
  auto impl = std::make_unique<Impl>();
  RETORT_TRY(impl->bytes, memory_byte_stream(std::move(content), name));
  impl->path = name;
  impl->options = std::move(options);
  impl->format = format_of(name);
  return CorpusReader(std::move(impl));
}

Result<std::optional<CorpusDocument>> CorpusReader::next() {
  RETORT_TRY(auto document, impl_->format == Format::kText ? impl_->next_text() : impl_->next_record());
  if (document) {
    ++impl_->documents;
  } else if (impl_->documents == 0) {
    return invalid(impl_->path, ": empty: there is no document in it");
  }
  return document;
}

Result<std::vector<std::string>> corpus_files(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const auto& path : paths) {
    if (!is_folder(path)) {
      files.push_back(path);
      continue;
    }
    std::error_code error;
    std::vector<std::string> inside;
    for (const auto& entry : fs::directory_iterator(path, error)) {
      const std::string plain = without_packing(entry.path().string());
      if (ends_with(plain, ".txt") || ends_with(plain, ".jsonl")) inside.push_back(entry.path().string());
    }
    if (error) return invalid(path, ": ", error.message());
    if (inside.empty()) return invalid(path, ": no .txt or .jsonl file in this folder");
    std::sort(inside.begin(), inside.end());
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

Result<std::vector<CorpusDocument>> read_corpus(const std::vector<std::string>& paths, CorpusOptions options) {
  RETORT_TRY(const auto files, corpus_files(paths));
  std::vector<CorpusDocument> out;
  size_t total = 0;
  for (const auto& file : files) {
    RETORT_TRY(CorpusReader reader, CorpusReader::open(file, options));
    while (true) {
      RETORT_TRY(auto document, reader.next());
      if (!document) break;
      total += document->text.size();
      if (total > options.max_total_bytes) return invalid(file, ": more than ", options.max_total_bytes, " bytes of text in all");
      out.push_back(std::move(*document));
    }
  }
  if (out.empty()) return invalid("no text: not one file was named");
  return out;
}

}  // namespace retort
