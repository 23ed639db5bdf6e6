#include "io/corpus_record.h"

#include <algorithm>

namespace retort {
namespace {

using nlohmann::json;
using Messages = std::vector<ChatMessage>;

constexpr const char* kAssistant = "assistant";

// "content" is a string, or a list of parts of which the texts count.
Result<std::string> message_content(const json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) return std::string();
  if (!content.is_array()) return invalid(where, ".content: a string or a list of parts is expected");
  std::string out;
  for (const json& part : content) {
    if (!part.is_object() || !part.contains("text") || !part["text"].is_string()) {
      return invalid(where, ".content: a part without \"text\"");
    }
    out += part["text"].get<std::string>();
  }
  return out;
}

Result<Messages> read_messages(const json& list, const char* key, const std::string& where) {
  if (!list.is_array() || list.empty()) return invalid(where, ": \"", key, "\" must be a list of at least one message");
  Messages out;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string here = cat(where, ": ", key, "[", i, "]");
    if (!list[i].is_object() || !list[i].contains("role") || !list[i]["role"].is_string() || !list[i].contains("content")) {
      return invalid(here, ": {\"role\": \"...\", \"content\": \"...\"} is expected");
    }
    ChatMessage message;
    message.role = list[i]["role"].get<std::string>();
    RETORT_TRY(message.content, message_content(list[i]["content"], here));
    out.push_back(std::move(message));
  }
  return out;
}

// A string is what the user says.
Result<Messages> read_prompt(const json& record, const std::string& where) {
  if (!record.contains("prompt")) return invalid(where, ": no \"prompt\"");
  const json& prompt = record["prompt"];
  if (prompt.is_string()) return Messages{{"user", prompt.get<std::string>()}};
  if (!prompt.is_array()) return invalid(where, ": \"prompt\" must be a string or a list of messages");
  return read_messages(prompt, "prompt", where);
}

// The conversation that one of a pair's answers ends: a string or an assistant's message goes after the prompt, any other list of
// messages is the whole conversation.
Result<Messages> read_answered(const json& record, const char* key, const std::string& where) {
  const json& answer = record[key];
  if (!answer.is_string() && !answer.is_array()) return invalid(where, ": \"", key, "\" must be a string or a list of messages");
  Messages said;
  if (answer.is_string()) {
    said = {{kAssistant, answer.get<std::string>()}};
  } else {
    RETORT_TRY(said, read_messages(answer, key, where));
  }
  if (said.back().role != kAssistant) return invalid(where, ": the last message of \"", key, "\" must be the assistant's");
  if (said.front().role == kAssistant) {
    RETORT_TRY(auto prompt, read_prompt(record, where));
    said.insert(said.begin(), prompt.begin(), prompt.end());
  }
  return said;
}

bool same_prompt(const Messages& a, const Messages& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end() - 1, b.begin(), [](const ChatMessage& x, const ChatMessage& y) {
    return x.role == y.role && x.content == y.content;
  });
}

}  // namespace

Status read_record(const json& record, const std::string& where, CorpusDocument& document) {
  if (!record.is_object()) return invalid(where, ": not a JSON object");
  const bool chosen = record.contains("chosen"), rejected = record.contains("rejected");
  if (chosen || rejected) {
    if (!chosen || !rejected) return invalid(where, ": \"", chosen ? "chosen" : "rejected", "\" without \"", chosen ? "rejected" : "chosen", "\"");
    RETORT_TRY(document.messages, read_answered(record, "chosen", where));
    RETORT_TRY(document.rejected, read_answered(record, "rejected", where));
    if (!same_prompt(document.messages, document.rejected)) {
      return invalid(where, ": \"chosen\" and \"rejected\" differ before their last messages; they must answer the same");
    }
  } else if (record.contains("text")) {
    if (!record["text"].is_string()) return invalid(where, ": \"text\" must be a string");
    document.text = record["text"].get<std::string>();
  } else if (record.contains("messages")) {
    RETORT_TRY(document.messages, read_messages(record["messages"], "messages", where));
  } else if (record.contains("prompt") && record.contains("response")) {
    if (!record["response"].is_string()) return invalid(where, ": \"response\" must be a string");
    RETORT_TRY(document.messages, read_prompt(record, where));
    document.messages.push_back({kAssistant, record["response"].get<std::string>()});
  } else {
    return invalid(where, ": no key that says what it is; expected \"text\", \"messages\", \"prompt\" with \"response\", or \"prompt\" with "
                   "\"chosen\" and \"rejected\"");
  }
  return {};
}

}  // namespace retort
