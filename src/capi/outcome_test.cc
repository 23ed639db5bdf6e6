// Exceptions and hostile arguments end as a status.
#include "capi/outcome.h"

#include <gtest/gtest.h>

#include <thread>

#include "support/c_models.h"

namespace retort::capi {
namespace {

using CArguments = test::CModels;

TEST(Outcome, ExceptionsAreStatuses) {
  EXPECT_EQ(guarded([]() -> Outcome { throw std::bad_alloc(); }), RETORT_NO_MEMORY);
  EXPECT_STREQ(retort_error(), "out of memory");
  EXPECT_EQ(guarded([]() -> Outcome { throw std::length_error("vector"); }), RETORT_NO_MEMORY);
  EXPECT_EQ(guarded([]() -> Outcome { throw 3; }), RETORT_INTERNAL);
  EXPECT_EQ(guarded([]() -> Outcome { return io_error("full ", 1); }), RETORT_IO);
  EXPECT_STREQ(retort_error(), "full 1");
  EXPECT_EQ(guarded([]() -> Outcome { return {}; }), RETORT_OK);
  EXPECT_STREQ(retort_error(), "full 1");
  EXPECT_EQ(guarded([]() -> Outcome { return invalid(std::string(5000, 'x')); }), RETORT_INVALID);
  EXPECT_EQ(std::string(retort_error()).size(), 1023u);
}

TEST(Outcome, AnErrorBelongsToItsThread) {
  report(RETORT_INVALID, "here");
  std::thread([] {
    EXPECT_STREQ(retort_error(), "");
    report(RETORT_INVALID, "there");
  }).join();
  EXPECT_STREQ(retort_error(), "here");
}

// `call` is refused with RETORT_INVALID and says something.
#define REFUSED(call)                          \
  do {                                         \
    report(RETORT_OK, "");                     \
    EXPECT_EQ(call, RETORT_INVALID) << #call;  \
    EXPECT_STRNE(retort_error(), "") << #call; \
  } while (0)

TEST_F(CArguments, NullIsRefusedEverywhere) {
  const ModelHandle model = load(teacher_);
  const SessionHandle some = session(model);
  retort_session* s = some.get();
  retort_model* m = model.get();
  retort_session* out = nullptr;
  const int32_t token = 1;
  int32_t drawn = 0;
  int64_t n = 0;
  const char* text = nullptr;
  REFUSED(retort_model_load(nullptr, nullptr, &m));
  m = model.get();
  REFUSED(retort_model_load(teacher_.c_str(), nullptr, nullptr));
  REFUSED(retort_tokenize(nullptr, "a", -1, 0, nullptr, 0, &n));
  REFUSED(retort_tokenize(m, nullptr, -1, 0, nullptr, 0, &n));
  REFUSED(retort_tokenize(m, nullptr, 3, 0, nullptr, 0, &n));
  REFUSED(retort_tokenize(m, "a", -1, 0, nullptr, 0, nullptr));
  REFUSED(retort_tokenize(m, "a", -1, 0, nullptr, 5, &n));
  REFUSED(retort_detokenize(m, nullptr, 2, 0, nullptr, 0, &n));
  REFUSED(retort_detokenize(m, &token, 1, 0, nullptr, 0, nullptr));
  REFUSED(retort_chat_tokens(nullptr, nullptr, 0, 0, nullptr, 0, &n));
  REFUSED(retort_chat_tokens(m, nullptr, 1, 0, nullptr, 0, &n));
  REFUSED(retort_chat_text(m, nullptr, 1, 0, nullptr, 0, &n));
  REFUSED(retort_stream_new(m, nullptr, 1, nullptr));
  REFUSED(retort_stream_push(nullptr, 1, &text, nullptr));
  REFUSED(retort_stream_finish(nullptr, &text, nullptr));
  REFUSED(retort_session_new(nullptr, &out));
  REFUSED(retort_session_new(m, nullptr));
  REFUSED(retort_session_clone(nullptr, &out));
  REFUSED(retort_session_clone(s, nullptr));
  REFUSED(retort_session_reset(nullptr));
  REFUSED(retort_session_feed(nullptr, &token, 1));
  REFUSED(retort_session_feed(s, nullptr, 1));
  REFUSED(retort_session_try(s, nullptr, 1));
  REFUSED(retort_session_try(nullptr, &token, 1));
  REFUSED(retort_session_keep(nullptr, 0));
  REFUSED(retort_session_save(s, nullptr));
  REFUSED(retort_session_save(nullptr, "state"));
  REFUSED(retort_session_load(s, nullptr));
  REFUSED(retort_session_load(nullptr, "state"));
  REFUSED(retort_session_save_memory(s, nullptr, 100, &n));
  REFUSED(retort_session_save_memory(s, nullptr, 0, nullptr));
  REFUSED(retort_session_load_memory(s, nullptr, 10));
  REFUSED(retort_sampler_new(nullptr, nullptr));
  REFUSED(retort_sampler_draw(nullptr, s, &drawn));
  REFUSED(retort_sampler_draw(nullptr, nullptr, &drawn));
  REFUSED(retort_sampler_draw_from(nullptr, nullptr, 5, nullptr, 0, &drawn));
  EXPECT_EQ(retort_model_vocabulary(nullptr), -1);
  EXPECT_EQ(retort_model_state_bytes(nullptr, 1), -1);
  EXPECT_EQ(retort_model_identity(nullptr), nullptr);
  EXPECT_EQ(retort_model_has_chat_template(nullptr), -1);
  EXPECT_EQ(retort_token_bos(nullptr), -1);
  EXPECT_EQ(retort_token_is_end(nullptr, 1), -1);
  EXPECT_EQ(retort_session_position(nullptr), -1);
  EXPECT_EQ(retort_session_state_bytes(nullptr), -1);
  EXPECT_EQ(retort_session_tokens(nullptr), nullptr);
  EXPECT_EQ(retort_session_logits(nullptr), nullptr);
  EXPECT_EQ(retort_session_trial_logits(nullptr, 0), nullptr);
  EXPECT_EQ(retort_stream_stopped(nullptr), 0);
  retort_model_free(nullptr);
  retort_session_free(nullptr);
  retort_sampler_free(nullptr);
  retort_stream_free(nullptr);
}

TEST_F(CArguments, NumbersOutOfRangeAreRefused) {
  const ModelHandle model = load(teacher_);
  const SessionHandle some = session(model);
  retort_session* s = some.get();
  const std::vector<int32_t> tokens(300, 1);
  int64_t n = 0;
  char byte = 0;
  for (const int64_t count : {int64_t(-1), INT64_MIN, INT64_MAX, int64_t(INT_MAX) + 1}) {
    REFUSED(retort_session_feed(s, tokens.data(), count));
    REFUSED(retort_session_try(s, tokens.data(), count));
    REFUSED(retort_detokenize(model.get(), tokens.data(), count, 0, nullptr, 0, &n));
    REFUSED(retort_chat_tokens(model.get(), nullptr, count, 0, nullptr, 0, &n));
    REFUSED(retort_session_keep(s, count));
    EXPECT_EQ(retort_model_state_bytes(model.get(), count), -1);
    if (count != -1) REFUSED(retort_tokenize(model.get(), "a", count, 0, nullptr, 0, &n));
    REFUSED(retort_tokenize(model.get(), "a", -1, 0, nullptr, count, &n));
  }
  REFUSED(retort_tokenize(model.get(), "a", -1, 64, nullptr, 0, &n));
  REFUSED(retort_session_save_memory(s, &byte, -1, &n));
  REFUSED(retort_session_load_memory(s, &byte, -1));
  REFUSED(retort_session_load_memory(s, &byte, 0));
  REFUSED(retort_session_load_memory(s, &byte, 1));
  REFUSED(retort_session_try(s, tokens.data(), 0));
  REFUSED(retort_session_try(s, tokens.data(), 257));
  for (const int32_t token : {-1, 260, INT_MAX, INT_MIN}) {
    const int32_t both[] = {1, token};
    REFUSED(retort_session_feed(s, both, 2));
    REFUSED(retort_session_try(s, both, 2));
    EXPECT_EQ(retort_session_position(s), 0);
  }
  EXPECT_EQ(retort_session_feed(s, nullptr, 0), RETORT_OK);
  REFUSED(retort_session_keep(s, 0));
  EXPECT_EQ(retort_session_logits(s), nullptr);
  EXPECT_STREQ(retort_error(), "the session has no logits: feed it a token first");
}

TEST_F(CArguments, ModelOptions) {
  const auto refused = [&](auto change) {
    retort_model_options options = RETORT_MODEL_DEFAULTS;
    change(options);
    retort_model* out = nullptr;
    EXPECT_EQ(retort_model_load(teacher_.c_str(), &options, &out), RETORT_INVALID);
    EXPECT_EQ(out, nullptr);
    return std::string(retort_error());
  };
  refused([](auto& o) { o.size = 1; });
  EXPECT_NE(refused([](auto& o) { o.weights = "q3"; }).find("q3"), std::string::npos);
  EXPECT_EQ(refused([](auto& o) { o.threads = -1; }),
            "threads is -1; expected 0 (as many as the process may use) to 4096");
  refused([](auto& o) { o.threads = 1 << 30; });
  retort_model_options options = RETORT_MODEL_DEFAULTS;
  options.weights = "bf16", options.bf16_activations = 1, options.threads = 1;
  retort_model* out = nullptr;
  EXPECT_EQ(retort_model_load(teacher_.c_str(), &options, &out), RETORT_OK) << retort_error();
  retort_model_free(out);
}

}  // namespace
}  // namespace retort::capi
