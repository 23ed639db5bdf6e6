// Sessions: feeding, trials, states.
#include "capi/handles.h"
#include "capi/outcome.h"

namespace retort::capi {
namespace {

static_assert(std::is_same_v<int, int32_t>, "tokens are passed on as they come");

// What a change to the state is done in: if an exception leaves, the state may be half of the old one and half of the
// new one.
template <class Fn>
Outcome changing(retort_session& s, Fn&& fn) {
  s.torn = true;
  const Outcome outcome = fn();
  s.torn = false;
  return outcome;
}

Status usable(const retort_session* s) {
  RETORT_RETURN_IF_ERROR(not_null(s, "session"));
  if (s->torn) return invalid("the session's state is torn by an earlier failure: reset it or load a state");
  return {};
}

Status decided(const retort_session* s) {
  RETORT_RETURN_IF_ERROR(usable(s));
  if (s->trial_engine) return invalid(s->on_trial.size(), " tokens are on trial: call retort_session_keep first");
  return {};
}

Result<std::span<const int>> tokens_of(const retort_session& s, const int32_t* tokens, int64_t count) {
  RETORT_TRY(const auto given, array_of(tokens, count, "tokens"));
  const int vocabulary = s.core->model->config().vocab_size;
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i] < 0 || given[i] >= vocabulary)
      return invalid("tokens[", i, "] is ", given[i], "; expected 0 to ", vocabulary - 1);
  }
  return given;
}

void forget_trial(retort_session& s) {
  s.trial = Trial();
  s.trial_engine.reset();
  s.on_trial.clear();
}

// Reads what is pending. Tokens that were not read, because somebody stopped it, are no part of the text.
Status consume(retort_session& s, const std::function<bool(int64_t)>& go_on = {}) {
  const Engines::Borrowed engine(s.core->engines);
  s.session.use(*engine);
  const Status status = s.session.consume(go_on);
  if (!status.ok()) s.session.cut(s.session.sequence().position());
  return status;
}

Outcome feed(retort_session* s, const int32_t* tokens, int64_t count, const std::function<bool(int64_t)>& go_on) {
  RETORT_RETURN_IF_ERROR(decided(s));
  RETORT_TRY(const std::span<const int> given, tokens_of(*s, tokens, count));
  return changing(*s, [&]() -> Outcome {
    s->session.commit(given);
    return consume(*s, go_on);
  });
}

// `load` fills a session; what it holds then takes the place of what `s` held.
template <class Load>
Outcome replace(retort_session* s, Load&& load) {
  RETORT_RETURN_IF_ERROR(not_null(s, "session"));
  RETORT_RETURN_IF_ERROR(load(s->session));
  forget_trial(*s);
  return changing(*s, [&]() -> Outcome {
    return consume(*s);
  });  // a text that `retort generate` saved ends in a token not read yet
}

Outcome save_memory(const retort_session* s, void* buffer, int64_t capacity, int64_t* size) {
  RETORT_RETURN_IF_ERROR(decided(s));
  RETORT_RETURN_IF_ERROR(not_null(size, "size"));
  *size = s->session.saved_bytes();
  if (capacity < 0) return invalid("the capacity is ", capacity, "; expected 0 or more");
  if (capacity == 0) return {};
  RETORT_RETURN_IF_ERROR(not_null(buffer, "the buffer"));
  if (capacity < *size)
    return report(RETORT_TOO_SMALL,
                  cat("the buffer has room for ", capacity, " bytes, ", *size, " are needed").c_str());
  auto* out = static_cast<std::byte*>(buffer);
  return s->session.save([&](std::span<const std::byte> bytes) -> Status {
    if (!bytes.empty()) std::memcpy(out, bytes.data(), bytes.size());
    out += bytes.size();
    return {};
  });
}

Outcome try_tokens(retort_session* s, const int32_t* tokens, int64_t count) {
  RETORT_RETURN_IF_ERROR(decided(s));
  RETORT_TRY(const std::span<const int> given, tokens_of(*s, tokens, count));
  if (given.empty() || given.size() > RETORT_MOST_ON_TRIAL) {
    return invalid("the count of tokens on trial is ", count, "; expected 1 to ", RETORT_MOST_ON_TRIAL);
  }
  s->on_trial.assign(given.begin(), given.end());
  return changing(*s, [&]() -> Outcome {
    s->trial_engine.emplace(s->core->engines);
    s->session.use(**s->trial_engine);
    return s->session.consume_on_trial(s->on_trial, s->trial, s->trial_logits);
  });
}

Outcome keep(retort_session* s, int64_t count) {
  RETORT_RETURN_IF_ERROR(usable(s));
  if (!s->trial_engine) return invalid("no tokens are on trial: call retort_session_try first");
  if (count < 0 || count > int64_t(s->on_trial.size())) {
    return invalid("the count of tokens to keep is ", count, "; expected 0 to ", s->on_trial.size());
  }
  const int64_t vocabulary = s->core->model->config().vocab_size;
  const std::span<const float> before = s->session.logits();
  std::vector<float> logits(before.begin(), before.end());  // of none kept
  if (count > 0)
    logits.assign(s->trial_logits.begin() + (count - 1) * vocabulary, s->trial_logits.begin() + count * vocabulary);
  return changing(*s, [&]() -> Outcome {
    s->session.keep(s->trial, std::span(s->on_trial).first(size_t(count)), logits);
    s->trial_engine.reset();
    s->on_trial.clear();
    return {};
  });
}

}  // namespace
}  // namespace retort::capi

using namespace retort;
using namespace retort::capi;

extern "C" {

retort_status retort_session_new(retort_model* model, retort_session** session) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(session, "session"));
    *session = nullptr;
    RETORT_RETURN_IF_ERROR(not_null(model, "model"));
    const Engines::Borrowed engine(model->core->engines);
    *session = new retort_session{model->core, Session(*engine)};
    return {};
  });
}

retort_status retort_session_clone(const retort_session* session, retort_session** clone) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(clone, "clone"));
    *clone = nullptr;
    RETORT_RETURN_IF_ERROR(decided(session));
    *clone = new retort_session{session->core, session->session.clone()};
    return {};
  });
}

void retort_session_free(retort_session* session) { delete session; }

retort_status retort_session_reset(retort_session* session) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(session, "session"));
    forget_trial(*session);
    session->session.reset();
    session->torn = false;
    return {};
  });
}

retort_status retort_session_feed(retort_session* session, const int32_t* tokens, int64_t count) {
  return guarded([&] { return feed(session, tokens, count, {}); });
}

retort_status retort_session_feed_watched(retort_session* session, const int32_t* tokens, int64_t count,
                                          retort_progress progress, void* user) {
  return guarded([&]() -> Outcome {
    if (!progress) return feed(session, tokens, count, {});
    return feed(session, tokens, count, [&](int64_t done) { return progress(user, done, count) == 0; });
  });
}

int64_t retort_session_position(const retort_session* session) {
  if (session) return session->session.sequence().position();
  report(RETORT_INVALID, "session is NULL");
  return -1;
}

const int32_t* retort_session_tokens(const retort_session* session) {
  if (session) return session->session.tokens().data();
  report(RETORT_INVALID, "session is NULL");
  return nullptr;
}

int64_t retort_session_state_bytes(const retort_session* session) {
  if (session) return session->session.sequence().bytes();
  report(RETORT_INVALID, "session is NULL");
  return -1;
}

const float* retort_session_logits(const retort_session* session) {
  const float* logits = nullptr;
  guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(usable(session));
    if (session->session.logits().empty()) return invalid("the session has no logits: feed it a token first");
    logits = session->session.logits().data();
    return {};
  });
  return logits;
}

retort_status retort_session_try(retort_session* session, const int32_t* tokens, int64_t count) {
  return guarded([&] { return try_tokens(session, tokens, count); });
}

const float* retort_session_trial_logits(const retort_session* session, int64_t index) {
  const float* logits = nullptr;
  guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(usable(session));
    if (!session->trial_engine) return invalid("no tokens are on trial: call retort_session_try first");
    if (index < 0 || index >= int64_t(session->on_trial.size())) {
      return invalid("the index is ", index, "; expected 0 to ", session->on_trial.size() - 1);
    }
    logits = session->trial_logits.data() + index * session->core->model->config().vocab_size;
    return {};
  });
  return logits;
}

retort_status retort_session_keep(retort_session* session, int64_t count) {
  return guarded([&] { return keep(session, count); });
}

retort_status retort_session_save(const retort_session* session, const char* path) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(decided(session));
    RETORT_RETURN_IF_ERROR(not_null(path, "path"));
    return session->session.save(path);
  });
}

retort_status retort_session_load(retort_session* session, const char* path) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(path, "path"));
    return replace(session, [&](Session& into) { return into.load(path); });
  });
}

retort_status retort_session_save_memory(const retort_session* session, void* buffer, int64_t capacity, int64_t* size) {
  return guarded([&] { return save_memory(session, buffer, capacity, size); });
}

retort_status retort_session_load_memory(retort_session* session, const void* buffer, int64_t size) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(buffer, "buffer"));
    if (size < 0) return invalid("size is ", size, "; expected 0 or more");
    const std::span bytes(static_cast<const std::byte*>(buffer), size_t(size));
    return replace(session, [&](Session& into) { return into.load(bytes, "the state in memory"); });
  });
}

}  // extern "C"
