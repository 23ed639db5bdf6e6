// Sessions of the C interface against the runtime below it: the same tokens, logits and states, to the bit.
#include <gtest/gtest.h>

#include <fstream>
#include <stdexcept>
#include <thread>

#include "io/tokenizer_files.h"
#include "runtime/sampling.h"
#include "runtime/session.h"
#include "support/c_models.h"

namespace retort {
namespace {

class CSession : public test::CModels {
 protected:
  // What the C++ classes make of the same prompt.
  std::vector<int> plain(const std::string& path, const std::vector<int>& prompt, int count, uint64_t seed,
                         const std::string& state = {}) {
    ThreadPool pool(2);
    const auto files = open_model(path);
    const auto model = Model::load(*files, WeightFormat::kAuto, pool);
    Engine engine(*model, pool);
    Session session(engine);
    session.commit(prompt);
    SamplingOptions options;
    options.never = open_tokenizer(*files)->ids_without_token(files->config.vocab_size);
    Sampler sampler(options, seed);
    std::vector<int> made;
    for (int i = 0; i < count; ++i) {
      EXPECT_TRUE(session.consume().ok());
      made.push_back(sampler.sample(session.logits(), session.tokens()));
      session.commit(made.back());
    }
    if (!state.empty()) {  // the last token is pending
      EXPECT_TRUE(session.save(state).ok());
    }
    return made;
  }

  static std::vector<int32_t> draw(const SessionHandle& session, int count, uint64_t seed) {
    retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
    options.seed = seed;
    retort_sampler* made = nullptr;
    EXPECT_EQ(retort_sampler_new(&options, &made), RETORT_OK);
    const SamplerHandle sampler(made);
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens) {
      EXPECT_EQ(retort_sampler_draw(sampler.get(), session.get(), &token), RETORT_OK) << retort_error();
      EXPECT_EQ(retort_session_feed(session.get(), &token, 1), RETORT_OK) << retort_error();
    }
    return tokens;
  }
};

TEST_F(CSession, MakesWhatTheRuntimeMakes) {
  for (const std::string& path : {teacher_, student_}) {
    const ModelHandle model = load(path);
    const SessionHandle s = session(model);
    const auto prompt = some_tokens(300);
    feed(s, prompt);
    EXPECT_EQ(draw(s, 12, 5), plain(path, prompt, 12, 5)) << path;
    EXPECT_EQ(retort_session_position(s.get()), 312);
    EXPECT_EQ(std::vector<int32_t>(retort_session_tokens(s.get()), retort_session_tokens(s.get()) + 300), prompt);
    EXPECT_EQ(retort_session_state_bytes(s.get()), retort_model_state_bytes(model.get(), 312)) << path;
  }
}

TEST_F(CSession, KeepsOfATrialWhatFeedingOneByOneGives) {
  for (const std::string& path : {teacher_, student_}) {
    const ModelHandle model = load(path);
    const SessionHandle start = session(model);
    feed(start, some_tokens(23));
    const auto before = bytes(start);
    const auto tokens = some_tokens(7, 9);
    for (int64_t kept = 0; kept <= 7; ++kept) {
      SCOPED_TRACE(cat(path, ": ", kept, " kept"));
      const SessionHandle s = clone(start), plain = clone(start);
      ASSERT_EQ(retort_session_try(s.get(), tokens.data(), 7), RETORT_OK) << retort_error();
      EXPECT_EQ(retort_session_position(s.get()), 23);
      EXPECT_EQ(logits(s), logits(start));
      for (int64_t i = 0; i < kept; ++i) {
        feed(plain, {tokens[size_t(i)]});
        const float* row = retort_session_trial_logits(s.get(), i);
        ASSERT_NE(row, nullptr);
        EXPECT_EQ(std::vector<float>(row, row + 260), logits(plain));
      }
      ASSERT_EQ(retort_session_keep(s.get(), kept), RETORT_OK) << retort_error();
      EXPECT_EQ(bytes(s), bytes(plain));
      EXPECT_EQ(draw(s, 4, 1), draw(plain, 4, 1));
    }
    EXPECT_EQ(bytes(start), before);
  }
}

TEST_F(CSession, ATrialMustBeDecided) {
  const ModelHandle model = load(student_);
  const SessionHandle s = session(model);
  feed(s, {1, 2, 3});
  const int32_t token = 4;
  int64_t size = 0;
  retort_session* out = nullptr;
  EXPECT_EQ(retort_session_keep(s.get(), 0), RETORT_INVALID);
  EXPECT_EQ(retort_session_trial_logits(s.get(), 0), nullptr);
  ASSERT_EQ(retort_session_try(s.get(), &token, 1), RETORT_OK);
  EXPECT_EQ(retort_session_feed(s.get(), &token, 1), RETORT_INVALID);
  EXPECT_STREQ(retort_error(), "1 tokens are on trial: call retort_session_keep first");
  EXPECT_EQ(retort_session_try(s.get(), &token, 1), RETORT_INVALID);
  EXPECT_EQ(retort_session_clone(s.get(), &out), RETORT_INVALID);
  EXPECT_EQ(retort_session_save(s.get(), (folder_ / "state").c_str()), RETORT_INVALID);
  EXPECT_EQ(retort_session_save_memory(s.get(), nullptr, 0, &size), RETORT_INVALID);
  EXPECT_EQ(retort_session_keep(s.get(), 2), RETORT_INVALID);
  EXPECT_EQ(retort_session_keep(s.get(), -1), RETORT_INVALID);
  EXPECT_EQ(retort_session_trial_logits(s.get(), 1), nullptr);
  ASSERT_EQ(retort_session_reset(s.get()), RETORT_OK);           // and so does starting anew
  ASSERT_EQ(retort_session_try(s.get(), &token, 1), RETORT_OK);  // of the very first token
  ASSERT_EQ(retort_session_keep(s.get(), 0), RETORT_OK);
  EXPECT_EQ(retort_session_logits(s.get()), nullptr);
  ASSERT_EQ(retort_session_try(s.get(), &token, 1), RETORT_OK);
  // The session goes away with its trial.
}

TEST_F(CSession, AStateGoesOnFromAFileAndFromMemory) {
  for (const std::string& path : {teacher_, student_}) {
    const ModelHandle model = load(path), again = load(path);
    const SessionHandle s = session(model), from_file = session(again), from_memory = session(again);
    feed(s, some_tokens(40));
    const std::string file = folder_ / "a.state";
    ASSERT_EQ(retort_session_save(s.get(), file.c_str()), RETORT_OK) << retort_error();
    const auto saved = bytes(s);
    EXPECT_EQ(std::string(saved.begin(), saved.end()), test::read_file(file));
    feed(from_file, {1, 2, 3});  // is lost
    ASSERT_EQ(retort_session_load(from_file.get(), file.c_str()), RETORT_OK) << retort_error();
    ASSERT_EQ(retort_session_load_memory(from_memory.get(), saved.data(), int64_t(saved.size())), RETORT_OK)
        << retort_error();
    EXPECT_EQ(logits(from_file), logits(s));
    const auto expected = draw(s, 10, 3);
    EXPECT_EQ(draw(from_file, 10, 3), expected);
    EXPECT_EQ(draw(from_memory, 10, 3), expected);
  }
}

TEST_F(CSession, AStateWithAPendingTokenIsRead) {
  const std::string file = folder_ / "generate.state";
  const auto prompt = some_tokens(20);
  auto text = prompt;
  for (const int token : plain(student_, prompt, 5, 1, file)) text.push_back(token);
  const ModelHandle model = load(student_);
  const SessionHandle s = session(model), fed = session(model);
  ASSERT_EQ(retort_session_load(s.get(), file.c_str()), RETORT_OK) << retort_error();
  EXPECT_EQ(retort_session_position(s.get()), 25);
  feed(fed, prompt);
  for (size_t i = 20; i < 25; ++i) feed(fed, {text[i]});
  EXPECT_EQ(bytes(s), bytes(fed));
}

TEST_F(CSession, ABadStateChangesNothing) {
  const ModelHandle model = load(student_), other = load(teacher_);
  const SessionHandle s = session(model), foreign = session(other);
  feed(s, some_tokens(12));
  feed(foreign, some_tokens(3));
  const auto good = bytes(s), strange = bytes(foreign);
  const auto refused = [&](const std::vector<char>& state, const char* why) {
    EXPECT_EQ(retort_session_load_memory(s.get(), state.data(), int64_t(state.size())), RETORT_INVALID);
    EXPECT_NE(std::string(retort_error()).find(why), std::string::npos) << retort_error();
    EXPECT_EQ(bytes(s), good);
  };
  refused(strange, "belongs to model");
  refused({good.begin(), good.end() - 1}, "cut");
  auto damaged = good;
  damaged[damaged.size() / 2] ^= 1;
  refused(damaged, "damaged");
  EXPECT_EQ(retort_session_load(s.get(), (folder_ / "absent").c_str()), RETORT_INVALID) << retort_error();
  EXPECT_EQ(retort_session_load(s.get(), folder_.str().c_str()), RETORT_INVALID) << retort_error();
  EXPECT_EQ(retort_session_save(s.get(), (folder_ / "absent/state").c_str()), RETORT_IO) << retort_error();
  std::vector<char> small(good.size(), 'x');
  int64_t size = 0;
  EXPECT_EQ(retort_session_save_memory(s.get(), small.data(), int64_t(small.size()) - 1, &size), RETORT_TOO_SMALL);
  EXPECT_EQ(size, int64_t(good.size()));
  EXPECT_EQ(small, std::vector<char>(good.size(), 'x'));
}

TEST_F(CSession, HandlesMayGoInAnyOrder) {
  ModelHandle model = load(student_);
  SessionHandle s = session(model);
  feed(s, some_tokens(30));
  const auto before = bytes(s);
  SessionHandle copy = clone(s);
  model.reset();
  feed(s, {1, 2, 3});
  s.reset();
  EXPECT_EQ(bytes(copy), before);
  EXPECT_EQ(draw(copy, 3, 1).size(), 3u);
}

TEST_F(CSession, FeedingCanBeStopped) {
  const ModelHandle model = load(teacher_);
  const SessionHandle s = session(model);
  const auto tokens = some_tokens(700);
  const auto stop = [](void* user, int64_t done, int64_t count) {
    *static_cast<std::pair<int64_t, int64_t>*>(user) = {done, count};
    return int(done >= 512);
  };
  std::pair<int64_t, int64_t> seen;
  EXPECT_EQ(retort_session_feed_watched(s.get(), tokens.data(), 700, stop, &seen), RETORT_INTERRUPTED);
  EXPECT_EQ(seen, (std::pair<int64_t, int64_t>(512, 700)));
  EXPECT_EQ(retort_session_position(s.get()), 512);
  EXPECT_EQ(retort_session_logits(s.get()), nullptr);
  EXPECT_EQ(retort_session_feed_watched(s.get(), tokens.data() + 512, 188, nullptr, nullptr), RETORT_OK);
  const SessionHandle whole = session(model);
  feed(whole, tokens);
  EXPECT_EQ(bytes(s), bytes(whole));
}

TEST_F(CSession, AnExceptionIsAStatusAndATornStateIsRefused) {
  const ModelHandle model = load(student_);
  const SessionHandle s = session(model);
  const auto tokens = some_tokens(600);
  const auto throws = [](void*, int64_t, int64_t) -> int { throw std::runtime_error("a\nb"); };
  EXPECT_EQ(retort_session_feed_watched(s.get(), tokens.data(), 600, throws, nullptr), RETORT_INTERNAL);
  EXPECT_STREQ(retort_error(), "a b");
  EXPECT_EQ(retort_session_feed(s.get(), tokens.data(), 1), RETORT_INVALID);
  EXPECT_EQ(retort_session_logits(s.get()), nullptr);
  ASSERT_EQ(retort_session_reset(s.get()), RETORT_OK);
  const SessionHandle fresh = session(model);
  feed(s, {1, 2, 3});
  feed(fresh, {1, 2, 3});
  EXPECT_EQ(bytes(s), bytes(fresh));
}

TEST_F(CSession, SessionsRunOnSeveralThreads) {
  const ModelHandle model = load(student_);
  const SessionHandle start = session(model);
  feed(start, some_tokens(300));
  std::vector<SessionHandle> sessions;
  std::vector<std::vector<int32_t>> alone, beside(4);
  for (uint64_t i = 0; i < 4; ++i) alone.push_back(draw(clone(start), 20, i));
  for (int i = 0; i < 4; ++i) sessions.push_back(clone(start));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) threads.emplace_back([&, i] { beside[i] = draw(sessions[i], 20, i); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(beside, alone);
}

}  // namespace
}  // namespace retort
