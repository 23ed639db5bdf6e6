#include "cli/synthesize/prompts.h"

#include <algorithm>

#include "eval/tasks/dataset.h"
#include "io/corpus_stream.h"
#include "io/utf8.h"

namespace retort::cli {
namespace {

using harness::Json;
using harness::Row;

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Result<ChatMessage> read_message(const Row& row, const Json& message, size_t index) {
  const auto field = [&](const char* key) -> Result<std::string> {
    const bool there = message.is_object() && message.contains(key) && message[key].is_string();
    if (!there) return row.bad("messages[", index, "] must have '", key, "', a string");
    return message[key].get<std::string>();
  };
  ChatMessage out;
  RETORT_TRY(out.role, field("role"));
  RETORT_TRY(out.content, field("content"));
  return out;
}

Result<std::vector<ChatMessage>> read_messages(const Row& row, const Json& list) {
  if (!list.is_array()) return row.bad("key 'messages' must be a list of objects with role and content");
  size_t before = list.size();
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_object() && list[i].value("role", Json()) == "assistant") before = i;
  }
  std::vector<ChatMessage> out;
  for (size_t i = 0; i < before; ++i) {
    RETORT_TRY(ChatMessage message, read_message(row, list[i], i));
    out.push_back(std::move(message));
  }
  if (out.empty()) return row.bad("nothing stands in 'messages' before the last assistant's message");
  return out;
}

Result<SynthesisPrompt> read_row(const Row& row) {
  if (row.value().contains("messages")) {
    RETORT_TRY(auto messages, read_messages(row, row.value()["messages"]));
    return SynthesisPrompt{std::move(messages), row.where()};
  }
  if (!row.value().contains("prompt")) return row.bad("a prompt has 'messages' or 'prompt'");
  RETORT_TRY(const std::string prompt, row.text("prompt"));
  if (prompt.empty()) return row.bad("key 'prompt' is empty");
  return SynthesisPrompt{{{"user", prompt}}, row.where()};
}

Result<std::vector<SynthesisPrompt>> read_rows(std::string content, const std::string& name) {
  RETORT_TRY(const auto rows, harness::read_rows(std::move(content), name));
  std::vector<SynthesisPrompt> out;
  for (const Row& row : rows) {
    RETORT_TRY(auto prompt, read_row(row));
    out.push_back(std::move(prompt));
  }
  return out;
}

Result<std::vector<SynthesisPrompt>> read_lines(std::string content, const std::string& name) {
  RETORT_TRY(const auto bytes, memory_byte_stream(std::move(content), name));
  std::string text;
  for (bool more = true; more;) {
    RETORT_TRY(more, bytes->read(text));
  }
  std::vector<SynthesisPrompt> out;
  size_t number = 0;
  for (size_t start = 0; start < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', start), text.size());
    std::string line = text.substr(start, end - start);
    start = end + 1;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::string where = cat(name, ":", number + 1);
    if (const size_t bad = utf8::first_invalid(line); bad != utf8::kValid) return invalid(where, ": not valid UTF-8 at byte ", bad);
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    out.push_back({{{"user", std::move(line)}}, where});
  }
  if (out.empty()) return invalid(name, ": empty: there is no prompt in it");
  return out;
}

}  // namespace

Result<std::vector<SynthesisPrompt>> read_prompts(std::string content, const std::string& name) {
  std::string plain = name;
  for (const char* packing : {".gz", ".zst"}) {
    if (ends_with(plain, packing)) plain.resize(plain.size() - std::string_view(packing).size());
  }
  if (ends_with(plain, ".jsonl")) return read_rows(std::move(content), name);
  if (ends_with(plain, ".txt")) return read_lines(std::move(content), name);
  return invalid(name, ": prompts are lines of a .jsonl or a .txt, also .gz and .zst");
}

Result<Shard> parse_shard(const std::string& text) {
  Shard out;
  if (text.empty()) return out;
  const auto number = [&](size_t from, size_t size) {
    const std::string digits = text.substr(from, size);
    const bool good = !digits.empty() && digits.size() < 7 && digits.find_first_not_of("0123456789") == std::string::npos;
    return good ? std::stoi(digits) : -1;
  };
  const size_t slash = std::min(text.find('/'), text.size());
  out.index = number(0, slash);
  out.count = slash < text.size() ? number(slash + 1, std::string::npos) : -1;
  if (out.index < 0 || out.index >= out.count) return invalid("--shard ", text, ": expected i/n with i from 0 to n - 1, such as 0/8");
  return out;
}

}  // namespace retort::cli
