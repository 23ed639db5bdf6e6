// Text to tokens and back, conversations, streams.
#include <string_view>

#include "capi/handles.h"
#include "capi/outcome.h"

namespace retort::capi {
namespace {

Result<std::string_view> text_of(const char* text, int64_t length) {
  if (length == -1) {
    RETORT_RETURN_IF_ERROR(not_null(text, "text"));
    return std::string_view(text);
  }
  RETORT_TRY(const auto bytes, array_of(text, length, "text"));
  return std::string_view(bytes.data(), bytes.size());
}

Status check_flags(unsigned flags, unsigned known) {
  if (flags & ~known) return invalid("flags are ", flags, "; this function knows ", known);
  return {};
}

Result<const Tokenizer*> tokenizer_of(const retort_model* model) {
  RETORT_RETURN_IF_ERROR(not_null(model, "model"));
  if (!model->core->tokenizer.ok()) return model->core->tokenizer.error();
  return &*model->core->tokenizer;
}

// A fact about tokens; -1 without a tokenizer.
template <class Fn>
int32_t token_fact(const retort_model* model, Fn&& fn) noexcept {
  int32_t value = -1;
  guarded([&]() -> Outcome {
    RETORT_TRY(const Tokenizer* tokenizer, tokenizer_of(model));
    value = fn(*tokenizer);
    return {};
  });
  return value;
}

Status check_utf8(const char* text, const std::string& what) {
  RETORT_RETURN_IF_ERROR(not_null(text, what.c_str()));
  const size_t bad = utf8::first_invalid(text);
  if (bad != utf8::kValid) return invalid(what, ": not valid UTF-8 at byte ", bad);
  return {};
}

Result<jinja::Rendered> render(const retort_model* model, const retort_message* messages, int64_t count, int answer) {
  RETORT_RETURN_IF_ERROR(not_null(model, "model"));
  RETORT_TRY(const auto given, array_of(messages, count, "messages"));
  if (!model->core->chat_template.ok()) return model->core->chat_template.error();
  std::vector<ChatMessage> talk;
  for (const retort_message& message : given) {
    RETORT_RETURN_IF_ERROR(check_utf8(message.role, cat("messages[", talk.size(), "].role")));
    RETORT_RETURN_IF_ERROR(check_utf8(message.content, cat("messages[", talk.size(), "].content")));
    talk.push_back({message.role, message.content});
  }
  return model->core->chat_template->apply(talk, ChatOptions{.add_generation_prompt = answer != 0});
}

Outcome give(retort_stream& stream, std::string text, const char** out, int64_t* size) {
  stream.out = std::move(text);
  *out = stream.out.c_str();
  if (size) *size = int64_t(stream.out.size());
  return {};
}

}  // namespace
}  // namespace retort::capi

using namespace retort;
using namespace retort::capi;

extern "C" {

retort_status retort_tokenize(const retort_model* model, const char* text, int64_t length, unsigned flags,
                              int32_t* tokens, int64_t capacity, int64_t* count) {
  return guarded([&]() -> Outcome {
    RETORT_TRY(const Tokenizer* tokenizer, tokenizer_of(model));
    RETORT_RETURN_IF_ERROR(not_null(count, "count"));
    RETORT_RETURN_IF_ERROR(check_flags(flags, RETORT_ADD_SPECIAL | RETORT_PARSE_SPECIAL));
    RETORT_TRY(const std::string_view input, text_of(text, length));
    const auto ids = tokenizer->encode(
        input, {.add_special = bool(flags & RETORT_ADD_SPECIAL), .parse_special = bool(flags & RETORT_PARSE_SPECIAL)});
    if (!ids.ok()) return invalid("text: ", ids.error().message);
    return fill(std::span<const int32_t>(*ids), tokens, capacity, count);
  });
}

retort_status retort_detokenize(const retort_model* model, const int32_t* tokens, int64_t count, unsigned flags,
                                char* text, int64_t capacity, int64_t* size) {
  return guarded([&]() -> Outcome {
    RETORT_TRY(const Tokenizer* tokenizer, tokenizer_of(model));
    RETORT_RETURN_IF_ERROR(not_null(size, "size"));
    RETORT_RETURN_IF_ERROR(check_flags(flags, RETORT_SKIP_SPECIAL));
    RETORT_TRY(const auto ids, array_of(tokens, count, "tokens"));
    const std::string out = tokenizer->decode(ids, flags & RETORT_SKIP_SPECIAL);
    return fill(std::span<const char>(out), text, capacity, size);
  });
}

int32_t retort_token_bos(const retort_model* model) {
  return token_fact(model, [](const Tokenizer& tokenizer) { return tokenizer.bos_id(); });
}

int32_t retort_token_eos(const retort_model* model) {
  return token_fact(model, [](const Tokenizer& tokenizer) { return tokenizer.eos_id(); });
}

int retort_token_is_end(const retort_model* model, int32_t token) {
  return token_fact(model, [&](const Tokenizer& tokenizer) { return int32_t(tokenizer.is_eog(token)); });
}

int retort_token_is_special(const retort_model* model, int32_t token) {
  return token_fact(model, [&](const Tokenizer& tokenizer) { return int32_t(tokenizer.is_special(token)); });
}

retort_status retort_chat_tokens(const retort_model* model, const retort_message* messages, int64_t count, int answer,
                                 int32_t* tokens, int64_t capacity, int64_t* token_count) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(token_count, "token_count"));
    RETORT_TRY(const jinja::Rendered prompt, render(model, messages, count, answer));
    RETORT_TRY(const std::vector<int32_t> ids, encode_chat(*model->core->tokenizer, prompt));
    return fill(std::span<const int32_t>(ids), tokens, capacity, token_count);
  });
}

retort_status retort_chat_text(const retort_model* model, const retort_message* messages, int64_t count, int answer,
                               char* text, int64_t capacity, int64_t* size) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(size, "size"));
    RETORT_TRY(const jinja::Rendered prompt, render(model, messages, count, answer));
    return fill(std::span<const char>(prompt.text), text, capacity, size);
  });
}

retort_status retort_stream_new(const retort_model* model, const char* const* stops, int64_t count,
                                retort_stream** stream) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(stream, "stream"));
    *stream = nullptr;
    RETORT_TRY(const Tokenizer* tokenizer, tokenizer_of(model));
    RETORT_TRY(const auto given, array_of(stops, count, "stops"));
    std::vector<std::string> texts;
    for (const char* stop : given) {
      RETORT_RETURN_IF_ERROR(check_utf8(stop, cat("stops[", texts.size(), "]")));
      if (*stop == 0) return invalid("stops[", texts.size(), "] is empty");
      texts.emplace_back(stop);
    }
    *stream = new retort_stream{*tokenizer, texts, TextStream(texts), {}};
    return {};
  });
}

void retort_stream_free(retort_stream* stream) { delete stream; }

retort_status retort_stream_push(retort_stream* stream, int32_t token, const char** text, int64_t* size) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(stream, "stream"));
    RETORT_RETURN_IF_ERROR(not_null(text, "text"));
    return give(*stream,
                stream->text.push(stream->tokenizer.is_special(token) ? "" : stream->tokenizer.token_bytes(token)),
                text, size);
  });
}

retort_status retort_stream_finish(retort_stream* stream, const char** text, int64_t* size) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(stream, "stream"));
    RETORT_RETURN_IF_ERROR(not_null(text, "text"));
    std::string rest = stream->text.finish();
    stream->text = TextStream(stream->stops);
    return give(*stream, std::move(rest), text, size);
  });
}

int retort_stream_stopped(const retort_stream* stream) { return stream && stream->text.stopped(); }

}  // extern "C"
