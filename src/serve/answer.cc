#include "serve/answer.h"

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "io/utf8.h"

namespace retort::serve {

using nlohmann::ordered_json;

namespace {

const char* error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
  }
  return status < 500 ? "invalid_request_error" : "server_error";
}

double per_second(int64_t count, double seconds) { return seconds > 0 ? double(count) / seconds : 0; }

ordered_json finish_reason(const std::optional<Finish>& finish) {
  if (!finish) return nullptr;
  return finish == Finish::kStop ? "stop" : "length";
}

ordered_json bytes_of(const std::string& text) {
  ordered_json out = ordered_json::array();
  for (const char c : text) out.push_back(int(uint8_t(c)));
  return out;
}

}  // namespace

std::string json_text(const ordered_json& document) { return document.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

std::string error_body(int status, const std::string& message) {
  return json_text({{"error", {{"code", status}, {"message", message}, {"type", error_type(status)}}}});
}

void answer_error(HttpReply& reply, int status, const std::string& message) {
  if (status == 429 || status == 503) reply.add_header("Retry-After", "1");
  if (status == 401) reply.add_header("WWW-Authenticate", "Bearer");
  reply.send(status, "application/json", error_body(status, message));
}

void answer_json(HttpReply& reply, const ordered_json& document) { reply.send(200, "application/json; charset=utf-8", json_text(document)); }

Answer::Answer(AnswerOptions options, Tokenizer tokenizer, std::shared_ptr<HttpReply> reply)
    : options_(std::move(options)), tokenizer_(std::move(tokenizer)), reply_(std::move(reply)), created_(int64_t(std::time(nullptr))),
      parts_(options_.prompt_tokens.size() * size_t(options_.choices)), left_(parts_.size()) {}

void Answer::accepted() {
  std::lock_guard lock(mutex_);
  begin();
}

void Answer::begin() {
  if (!options_.stream || begun_ || failed_) return;
  begun_ = true;
  reply_->add_header("Cache-Control", "no-cache");
  reply_->begin_stream("text/event-stream; charset=utf-8");
}

void Answer::update(size_t prompt, const GenerationUpdate& update) {
  std::lock_guard lock(mutex_);
  if (failed_) return;
  const size_t index = prompt * size_t(options_.choices) + size_t(update.choice);
  Part& part = parts_[index];
  if (update.finish) {
    part.finish = update.finish;
    part.stats = update.stats;
    --left_;
  }
  if (update.finish == Finish::kLate) return fail(503, "no place became free in the time that a request is given");
  if (update.finish == Finish::kFailed) return fail(500, update.message);
  if (update.finish == Finish::kCancelled) return fail(503, "the request was cancelled");
  // An answer that echoes begins with its prompt, and every choice has the same.
  std::string text = part.begun || options_.echoes.empty() ? std::string() : options_.echoes[prompt];
  std::vector<ScoredToken> tokens = update.prompt;
  tokens.insert(tokens.end(), update.tokens.begin(), update.tokens.end());
  text += update.text;
  if (update.choice > 0 && !part.begun && !options_.echoes.empty()) {
    const auto& first = parts_[prompt * size_t(options_.choices)].tokens;
    tokens.insert(tokens.begin(), first.begin(), first.begin() + std::min(ptrdiff_t(first.size()), ptrdiff_t(options_.prompt_tokens[prompt])));
  }
  if (options_.stream) stream_update(index, part, update, text, tokens);
  part.begun = true;
  part.text += text;
  if (options_.logprobs) part.tokens.insert(part.tokens.end(), tokens.begin(), tokens.end());
  if (left_ > 0) return;
  if (options_.stream) finish_stream();
  else finish_whole();
}

void Answer::fail(int status, const std::string& message) {
  failed_ = true;
  if (!begun_) return answer_error(*reply_, status, message);
  reply_->write("data: " + error_body(status, message) + "\n\n");
  reply_->end();
}

void Answer::event(const ordered_json& document) { reply_->write("data: " + json_text(document) + "\n\n"); }

ordered_json Answer::head(bool piece) const {
  return {{"id", options_.id},
          {"object", !options_.chat ? "text_completion" : piece ? "chat.completion.chunk" : "chat.completion"},
          {"created", created_},
          {"model", options_.model},
          {"system_fingerprint", options_.fingerprint}};
}

ordered_json Answer::usage() const {
  int64_t prompt = 0, made = 0, cached = 0;
  for (const int64_t tokens : options_.prompt_tokens) prompt += tokens;
  for (size_t i = 0; i < parts_.size(); ++i) {
    made += parts_[i].stats.made_tokens;
    if (i % size_t(options_.choices) == 0) cached += parts_[i].stats.cached_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", made},
          {"total_tokens", prompt + made},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

// Of the first choice.
ordered_json Answer::timings() const {
  const GenerationStats& s = parts_[0].stats;
  const int64_t read = s.prompt_tokens - s.cached_tokens;
  ordered_json out = {{"cache_n", s.cached_tokens},
                      {"prompt_n", read},
                      {"prompt_ms", 1000 * s.prompt_seconds},
                      {"prompt_per_second", per_second(read, s.prompt_seconds)},
                      {"predicted_n", s.made_tokens},
                      {"predicted_ms", 1000 * s.made_seconds},
                      {"predicted_per_second", per_second(s.made_tokens, s.made_seconds)}};
  if (s.drafted > 0) {
    out["draft_n"] = s.drafted;
    out["draft_n_accepted"] = s.drafts_accepted;
  }
  return out;
}

std::string Answer::shown(int token) const {
  return tokenizer_.is_special(token) ? tokenizer_.token_text(token) : utf8::repair(tokenizer_.token_bytes(token));
}

// OpenAI's first format: parallel lists. The likeliest token's value appears twice, and is the same number.
ordered_json Answer::completion_logprobs(const std::vector<ScoredToken>& tokens, int64_t& characters) const {
  ordered_json texts = ordered_json::array(), values = ordered_json::array(), tops = ordered_json::array(), offsets = ordered_json::array();
  for (const ScoredToken& t : tokens) {
    const std::string text = tokenizer_.is_special(t.token) ? tokenizer_.token_text(t.token) : tokenizer_.token_bytes(t.token);
    texts.push_back(shown(t.token));
    offsets.push_back(characters);
    characters += int64_t(utf8::count(text));
    if (!t.scored) {
      values.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    values.push_back(t.logprob);
    ordered_json top = ordered_json::object();
    for (const auto& [token, logprob] : t.top) {
      const std::string key = shown(token);
      if (!top.contains(key)) top[key] = logprob;  // likeliest first: of two tokens with one text the likelier stays
    }
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(texts)}, {"token_logprobs", std::move(values)}, {"top_logprobs", std::move(tops)}, {"text_offset", std::move(offsets)}};
}

ordered_json Answer::chat_logprobs(const std::vector<ScoredToken>& tokens) const {
  ordered_json content = ordered_json::array();
  const auto entry = [&](int token, double logprob) {
    return ordered_json{{"token", shown(token)}, {"logprob", logprob}, {"bytes", bytes_of(tokenizer_.token_bytes(token))}};
  };
  for (const ScoredToken& t : tokens) {
    ordered_json one = entry(t.token, t.logprob);
    one["top_logprobs"] = ordered_json::array();
    for (const auto& [token, logprob] : t.top) one["top_logprobs"].push_back(entry(token, logprob));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

ordered_json Answer::logprobs_of(Part& part, const std::vector<ScoredToken>& tokens) const {
  if (!options_.logprobs) return nullptr;
  return options_.chat ? chat_logprobs(tokens) : completion_logprobs(tokens, part.characters);
}

void Answer::stream_update(size_t index, Part& part, const GenerationUpdate& update, const std::string& text, const std::vector<ScoredToken>& tokens) {
  begin();
  const auto send = [&](ordered_json choice) {
    ordered_json out = head(true);
    out["choices"] = ordered_json::array({std::move(choice)});
    if (options_.include_usage) out["usage"] = nullptr;
    if (update.finish && left_ == 0) out["timings"] = timings();
    event(out);
  };
  if (!options_.chat) {
    return send({{"index", index}, {"text", text}, {"logprobs", logprobs_of(part, tokens)}, {"finish_reason", finish_reason(update.finish)}});
  }
  ordered_json delta = ordered_json::object();
  if (!part.begun) delta["role"] = "assistant";
  if (!part.begun || !text.empty()) delta["content"] = text;
  send({{"index", index}, {"delta", std::move(delta)}, {"logprobs", logprobs_of(part, tokens)}, {"finish_reason", finish_reason(update.finish)}});
}

void Answer::finish_stream() {
  if (options_.include_usage) {
    ordered_json out = head(true);
    out["choices"] = ordered_json::array();
    out["usage"] = usage();
    event(out);
  }
  reply_->write("data: [DONE]\n\n");
  reply_->end();
}

void Answer::finish_whole() {
  ordered_json choices = ordered_json::array();
  for (size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    ordered_json choice = {{"index", i}};
    if (options_.chat) choice["message"] = {{"role", "assistant"}, {"content", part.text}};
    else choice["text"] = part.text;
    choice["logprobs"] = logprobs_of(part, part.tokens);
    choice["finish_reason"] = finish_reason(part.finish);
    choices.push_back(std::move(choice));
  }
  ordered_json out = head(false);
  out["choices"] = std::move(choices);
  out["usage"] = usage();
  out["timings"] = timings();
  answer_json(*reply_, out);
}

}  // namespace retort::serve
