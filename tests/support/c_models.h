// Small models in a folder, for tests of the C interface: a teacher with a chat template, and a student of several
// mixers.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include <retort/retort.h>

#include "base/atomic_file.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::test {

inline ModelConfig mixed_config() {
  ModelConfig c = tiny_config();
  const auto empty = nlohmann::json::object();
  c.plan[0].parts = {Part{"gla", {0, 1}, {5, 2}, empty}};
  c.plan[1].parts = {Part{"attention", {0}, {}, empty}, Part{"slots", {1}, {4, 1}, {{"slots", 8}}}};
  c.plan[2].parts = {Part{"gated_deltanet", {0, 1}, {}, empty}};
  EXPECT_TRUE(validate_plan(c).ok());  // which also fills in the fields
  return c;
}

class CModels : public testing::Test {
 protected:
  static constexpr const char* kTemplate =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}{% if add_generation_prompt %}<assistant>{% "
      "endif %}";

  void SetUp() override {
    ASSERT_TRUE(write_tiny_model(teacher_).ok());
    const nlohmann::json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"chat_template", kTemplate}};
    ASSERT_TRUE(write_text_file(teacher_ + "/tokenizer_config.json", config.dump()).ok());
    const Status written = write_random_model(student_, mixed_config());
    ASSERT_TRUE(written.ok()) << written.error().message;
  }

  struct Free {
    void operator()(retort_model* handle) const { retort_model_free(handle); }
    void operator()(retort_session* handle) const { retort_session_free(handle); }
    void operator()(retort_sampler* handle) const { retort_sampler_free(handle); }
    void operator()(retort_stream* handle) const { retort_stream_free(handle); }
  };
  using ModelHandle = std::unique_ptr<retort_model, Free>;
  using SessionHandle = std::unique_ptr<retort_session, Free>;
  using SamplerHandle = std::unique_ptr<retort_sampler, Free>;
  using StreamHandle = std::unique_ptr<retort_stream, Free>;

  static ModelHandle load(const std::string& path) {
    retort_model_options options = RETORT_MODEL_DEFAULTS;
    options.threads = 2;
    retort_model* model = nullptr;
    EXPECT_EQ(retort_model_load(path.c_str(), &options, &model), RETORT_OK) << retort_error();
    return ModelHandle(model);
  }
  static SessionHandle session(const ModelHandle& model) {
    retort_session* out = nullptr;
    EXPECT_EQ(retort_session_new(model.get(), &out), RETORT_OK) << retort_error();
    return SessionHandle(out);
  }
  static SessionHandle clone(const SessionHandle& of) {
    retort_session* out = nullptr;
    EXPECT_EQ(retort_session_clone(of.get(), &out), RETORT_OK) << retort_error();
    return SessionHandle(out);
  }
  static void feed(const SessionHandle& session, const std::vector<int32_t>& tokens) {
    ASSERT_EQ(retort_session_feed(session.get(), tokens.data(), int64_t(tokens.size())), RETORT_OK) << retort_error();
  }
  static std::vector<int32_t> some_tokens(int64_t count, uint64_t seed = 1) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i)
      tokens.push_back(int32_t((seed = seed * 6364136223846793005ull + 1442695040888963407ull) >> 40) % 256);
    return tokens;
  }
  static std::vector<float> logits(const SessionHandle& session) {
    const float* values = retort_session_logits(session.get());
    EXPECT_NE(values, nullptr) << retort_error();
    return values ? std::vector<float>(values, values + 260) : std::vector<float>();
  }
  // Everything that a session is.
  static std::vector<char> bytes(const SessionHandle& session) {
    int64_t size = 0;
    EXPECT_EQ(retort_session_save_memory(session.get(), nullptr, 0, &size), RETORT_OK) << retort_error();
    std::vector<char> out(static_cast<size_t>(size));
    EXPECT_EQ(retort_session_save_memory(session.get(), out.data(), size, &size), RETORT_OK) << retort_error();
    EXPECT_EQ(size_t(size), out.size());
    return out;
  }

  TempFolder folder_;
  const std::string teacher_ = folder_ / "teacher", student_ = folder_ / "student";
};

}  // namespace retort::test
