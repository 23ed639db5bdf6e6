// Every mixer of the registry on trial: whatever is kept, state and logits have the bits of plain decoding.
#include "runtime/trial.h"

#include <gtest/gtest.h>

#include "runtime/model.h"
#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::NamedPlan;
using testing_support::plans_of_every_mixer;
using testing_support::tiny_files;

constexpr int kVocabulary = 96;

ThreadPool& pool() {
  static ThreadPool pool(2);
  return pool;
}

std::shared_ptr<const Model> load(const NamedPlan& plan, WeightFormat format, int head_dim = 8) {
  auto model = Model::load(tiny_files(plan.plan, 1, false, head_dim), format, pool());
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return *model;
}

std::vector<int> some_tokens(int64_t count, Random& random) {
  std::vector<int> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int(random.next() % kVocabulary));
  return tokens;
}

// All logits. [T, vocabulary]
std::vector<float> feed(Engine& engine, Sequence& sequence, std::span<const int> tokens, Trial* trial = nullptr) {
  std::vector<float> all;
  const BatchItem item{&sequence, tokens, WantLogits::kAll, trial};
  EXPECT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) {
    all.insert(all.end(), rows.data, rows.data + rows.count * kVocabulary);
  }).ok());
  return all;
}

// Everything that a state has.
struct Bits {
  std::vector<float> fixed;
  std::vector<std::byte> caches;
  int64_t position = 0;
  bool operator==(const Bits&) const = default;
};
Bits bits_of(const Sequence& sequence) {
  Bits bits{sequence.fixed_numbers(), {}, sequence.position()};
  for (const KvCache& cache : sequence.caches()) {
    EXPECT_EQ(cache.rows(), sequence.position());
    std::vector<std::byte> row(size_t(cache.row_bytes()));
    for (int64_t r = 0; r < cache.rows(); ++r) {
      cache.read_row(r, row.data());
      bits.caches.insert(bits.caches.end(), row.begin(), row.end());
    }
  }
  return bits;
}

// Tokens decoded one by one after a prompt: the logits after each, and the state before and after each.
struct Plain {
  std::vector<int> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<Bits> states;

  Plain(Engine& engine, Sequence sequence, std::vector<int> text) : tokens(std::move(text)) {
    for (const int& token : tokens) {
      states.push_back(bits_of(sequence));
      logits.push_back(feed(engine, sequence, {&token, 1}));
    }
    states.push_back(bits_of(sequence));
  }
};

class EveryMixerOnTrial : public testing::TestWithParam<NamedPlan> {
 protected:
  void TearDown() override { set_active_isa(available_isas().back()); }
};

// Rounds of right and wrong tokens of which some right ones are kept.
void try_rounds(Engine& engine, const Sequence& start, const Plain& plain, Random& random) {
  Sequence sequence = start;
  Trial trial;
  for (size_t done = 0; done < plain.tokens.size();) {
    const size_t left = plain.tokens.size() - done, right = random.next() % std::min<size_t>(left + 1, 9);
    std::vector<int> tokens(plain.tokens.begin() + ptrdiff_t(done), plain.tokens.begin() + ptrdiff_t(done + right));
    for (const int wrong : some_tokens(int64_t(right == 0) + int64_t(random.next() % 4), random)) tokens.push_back(wrong);
    const auto logits = feed(engine, sequence, tokens, &trial);
    for (size_t t = 0; t < right; ++t) {
      const std::vector<float> row(logits.begin() + ptrdiff_t(t * kVocabulary), logits.begin() + ptrdiff_t((t + 1) * kVocabulary));
      ASSERT_EQ(row, plain.logits[done + t]) << "row " << t << " of " << tokens.size() << " from " << done;
    }
    const size_t kept = random.next() % (right + 1);
    trial.keep(sequence, int64_t(kept), pool());
    done += kept;
    ASSERT_TRUE(bits_of(sequence) == plain.states[done]) << kept << " of " << tokens.size() << " kept, now " << done;
  }
}

TEST_P(EveryMixerOnTrial, WhateverIsKeptIsPlainDecodingToTheBit) {
  for (const Isa isa : available_isas()) {
    set_active_isa(isa);
    using Held = std::pair<WeightFormat, int>;
    for (const auto& [format, head_dim] : {Held{WeightFormat::kF32, 8}, Held{WeightFormat::kF32, 16}, Held{WeightFormat::kQ8_0, 16}}) {
      SCOPED_TRACE(cat(isa_name(isa), " format ", int(format), " head_dim ", head_dim));
      const auto model = load(GetParam(), format, head_dim);
      Engine engine(model, pool());
      Random random(3);
      for (const int64_t prompt : {0, 23}) {
        SCOPED_TRACE(cat("after ", prompt));
        Sequence start = model->new_sequence();
        feed(engine, start, some_tokens(prompt, random));
        const Plain plain(engine, start, some_tokens(24, random));
        try_rounds(engine, start, plain, random);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(EveryMixerOnTrial, BesideNeighboursAndPastAChunkOfTheCache) {
  const auto model = load(GetParam(), WeightFormat::kBF16, 16);
  Engine engine(model, pool());
  Random random(5);
  Sequence start = model->new_sequence(), other = model->new_sequence(), third = model->new_sequence();
  feed(engine, start, some_tokens(KvCache::kChunk - 3, random));
  const Plain plain(engine, start, some_tokens(8, random));
  const auto prompt = some_tokens(11, random), drafts = some_tokens(5, random);
  Sequence alone = other;
  const auto prompt_logits = feed(engine, alone, prompt);
  Trial trial, third_trial;
  Sequence sequence = start;
  const BatchItem items[] = {{&sequence, plain.tokens, WantLogits::kAll, &trial}, {&other, prompt, WantLogits::kAll},
                             {&third, drafts, WantLogits::kAll, &third_trial}};
  std::vector<float> logits;
  ASSERT_TRUE(engine.forward(items, [&](const LogitsRows& rows) {
    logits.insert(logits.end(), rows.data, rows.data + rows.count * kVocabulary);
  }).ok());
  trial.keep(sequence, 6, pool());
  third_trial.keep(third, 0, pool());
  EXPECT_TRUE(bits_of(sequence) == plain.states[6]);
  EXPECT_TRUE(bits_of(other) == bits_of(alone));
  EXPECT_TRUE(bits_of(third) == bits_of(model->new_sequence()));
  const std::vector<float> middle(logits.begin() + 8 * kVocabulary, logits.begin() + 19 * kVocabulary);
  EXPECT_EQ(middle, prompt_logits);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryMixerOnTrial, testing::ValuesIn(plans_of_every_mixer()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace retort
