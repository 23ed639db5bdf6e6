// Every mixer of the registry through the whole engine, on tiny random models.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "runtime/session.h"
#include "runtime/state_file.h"
#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::NamedPlan;
using testing_support::plans_of_every_mixer;
using testing_support::some_tokens;
using testing_support::tiny_files;

ThreadPool& pool() {
  static ThreadPool pool(2);
  return pool;
}

std::shared_ptr<const Model> load(const ModelFiles& files, WeightFormat format = WeightFormat::kF32) {
  auto model = Model::load(files, format, pool());
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return *model;
}

// All logits of the tokens, fed in pieces. [T, vocabulary]
std::vector<float> logits_of(Engine& engine, Sequence& sequence, std::span<const int> tokens, const std::vector<int>& pieces) {
  std::vector<float> all;
  size_t first = 0;
  for (size_t i = 0; first < tokens.size(); ++i) {
    const size_t count = std::min(size_t(pieces[i % pieces.size()]), tokens.size() - first);
    const BatchItem item{&sequence, tokens.subspan(first, count), WantLogits::kAll};
    EXPECT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) {
      all.insert(all.end(), rows.data, rows.data + rows.count * engine.model().config().vocab_size);
    }).ok());
    first += count;
  }
  return all;
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const float d = std::fabs(a[i] - b[i]);
    if (std::isnan(d)) return d;
    most = std::max(most, d);
  }
  return most;
}

class EveryMixer : public testing::TestWithParam<NamedPlan> {};

// Steps, chunks and one shot run different forms of the recurrence and of attention: fp32 sums in other orders, of logits of
// size 3, over 70 tokens.
constexpr float kFormTolerance = 2e-4f;

TEST_P(EveryMixer, SplitAnywhere) {
  const auto model = load(tiny_files(GetParam().plan));
  Engine engine(model, pool());
  const auto tokens = some_tokens(70, 2);
  Sequence whole = model->new_sequence();
  const auto expected = logits_of(engine, whole, tokens, {70});
  for (const float v : expected) ASSERT_TRUE(std::isfinite(v));
  for (const auto& pieces : std::vector<std::vector<int>>{{1}, {2}, {7}, {1, 5, 2, 31}, {64, 1}, {33}}) {
    Sequence sequence = model->new_sequence();
    EXPECT_LE(largest_difference(logits_of(engine, sequence, tokens, pieces), expected), kFormTolerance) << "pieces of " << pieces[0];
  }
}

TEST_P(EveryMixer, EarlierTokensMatter) {
  const auto model = load(tiny_files(GetParam().plan));
  Engine engine(model, pool());
  auto tokens = some_tokens(40, 3);
  Sequence a = model->new_sequence(), b = model->new_sequence();
  const auto before = logits_of(engine, a, tokens, {40});
  tokens[20] = (tokens[20] + 1) % 96;
  const auto after = logits_of(engine, b, tokens, {40});
  const auto row = [](const std::vector<float>& v, int r) { return std::vector<float>(v.begin() + r * 96, v.begin() + (r + 1) * 96); };
  // Causal; to the last bits, because decays per key are scaled by those of the whole chunk.
  EXPECT_LE(largest_difference(row(before, 19), row(after, 19)), 1e-5f);
  EXPECT_GT(largest_difference(row(before, 22), row(after, 22)), 1e-4f);
}

TEST_P(EveryMixer, NeighboursInABatchDoNotMatter) {
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kQ8_0, WeightFormat::kQ4_1}) {
    const auto model = load(tiny_files(GetParam().plan), format);
    Engine engine(model, pool());
    const std::vector<std::vector<int>> texts = {some_tokens(13, 4), some_tokens(1, 5), some_tokens(37, 6)};
    std::vector<std::vector<float>> alone;
    std::vector<Sequence> sequences;
    for (const auto& text : texts) {
      Sequence sequence = model->new_sequence();
      alone.push_back(logits_of(engine, sequence, text, {64}));
      auto step = logits_of(engine, sequence, std::vector<int>{7}, {1});
      alone.back().insert(alone.back().end(), step.begin(), step.end());
      sequences.push_back(model->new_sequence());
    }
    std::vector<std::vector<float>> together(texts.size());
    const auto run = [&](const std::vector<std::vector<int>>& rows) {
      std::vector<BatchItem> items;
      std::vector<size_t> owner;
      for (size_t i = 0; i < rows.size(); ++i) {
        items.push_back({&sequences[i], rows[i], WantLogits::kAll});
        owner.insert(owner.end(), rows[i].size(), i);
      }
      ASSERT_TRUE(engine.forward(items, [&](const LogitsRows& out) {
        for (int64_t r = 0; r < out.count; ++r) {
          auto& to = together[owner[size_t(out.first + r)]];
          to.insert(to.end(), out.data + r * 96, out.data + (r + 1) * 96);
        }
      }).ok());
    };
    run(texts);
    run({{7}, {7}, {7}});
    for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(together[i], alone[i]) << "sequence " << i;
  }
}

TEST_P(EveryMixer, CloneSaveAndLoadContinueIdentically) {
  const ModelFiles files = tiny_files(GetParam().plan);
  const auto model = load(files, WeightFormat::kBF16);
  Engine engine(model, pool());
  const std::string path = testing::TempDir() + "retort_" + GetParam().name + ".state";
  for (const int before : {0, 1, 4, 23, 300}) {
    Session session(engine);
    session.commit(some_tokens(before, 8));
    ASSERT_TRUE(session.consume().ok());
    session.commit(5);  // pending
    ASSERT_TRUE(session.save(path).ok());
    Session clone = session.clone(), loaded(engine);
    const auto status = loaded.load(path);
    ASSERT_TRUE(status.ok()) << status.error().message;
    ASSERT_EQ(loaded.tokens(), session.tokens());
    ASSERT_EQ(loaded.pending(), 1);
    for (int step = 0; step < 3; ++step) {
      for (Session* s : {&session, &clone, &loaded}) {
        s->commit(step + 9);
        ASSERT_TRUE(s->consume().ok());
      }
      const std::vector<float> expected(session.logits().begin(), session.logits().end());
      EXPECT_EQ(expected, std::vector<float>(clone.logits().begin(), clone.logits().end()));
      EXPECT_EQ(expected, std::vector<float>(loaded.logits().begin(), loaded.logits().end()));
    }
    EXPECT_EQ(session.sequence().bytes(), loaded.sequence().bytes());
  }
  std::filesystem::remove(path);
}

TEST_P(EveryMixer, BytesOfStateAreWhatTheProbeSays) {
  const ModelFiles files = tiny_files(GetParam().plan);
  const auto model = load(files);
  Engine engine(model, pool());
  Sequence sequence = model->new_sequence();
  const auto tokens = some_tokens(50, 3);
  logits_of(engine, sequence, tokens, {50});
  int64_t numbers = 0;
  for (const auto& layer : files.config.plan) {
    for (const auto& part : layer.parts) {
      for (const auto& slot : part_states(files.config, part)) numbers += slot.numbers(50);
    }
  }
  EXPECT_GE(sequence.bytes(), 4 * numbers);
  EXPECT_LE(sequence.bytes(), 4 * numbers + 64 * int64_t(model->layout()->slots().size()));
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryMixer, testing::ValuesIn(plans_of_every_mixer()),
                         [](const auto& info) { return info.param.name; });

// Layers that are loaded and run one by one make of the embedding what the whole model makes of it: bit for bit.
TEST_P(EveryMixer, ALayerByItselfIsThatOfTheModel) {
  const ModelFiles files = tiny_files(GetParam().plan);
  const auto model = load(files);
  const auto tokens = some_tokens(70, 3);
  const int width = model->config().width;
  std::vector<std::vector<float>> whole;  // before every layer
  Engine engine(model, pool());
  engine.watch_layers([&](int, const RuntimeOps::Tensor& hidden) {
    auto& copy = whole.emplace_back();
    for (size_t t = 0; t < tokens.size(); ++t) copy.insert(copy.end(), hidden.row(int64_t(t)), hidden.row(int64_t(t)) + width);
  });
  Sequence sequence = model->new_sequence();
  const BatchItem item{&sequence, tokens, WantLogits::kNone};
  ASSERT_TRUE(engine.forward({&item, 1}, {}).ok());
  ASSERT_GE(whole.size(), 2u);
  std::vector<float> hidden = whole.front();
  for (int l = 0; l + 1 < int(whole.size()); ++l) {
    const auto layer = Model::load_layer(files, l, WeightFormat::kF32, pool());
    ASSERT_TRUE(layer.ok()) << layer.error().message;
    Engine alone(*layer, pool());
    Sequence own = (*layer)->new_sequence();
    alone.forward_hidden(own, hidden.data(), int64_t(tokens.size()));
    EXPECT_EQ(own.position(), int64_t(tokens.size()));
    ASSERT_EQ(largest_difference(hidden, whole[size_t(l) + 1]), 0) << l;
    const BatchItem text{&own, tokens};
    EXPECT_FALSE(alone.forward({&text, 1}, [](const LogitsRows&) {}).ok());  // it has no vocabulary
  }
}

TEST(Engine, WindowAsLongAsTheTextIsAttention) {
  const Part attention{"attention", {0, 1}, {}, nlohmann::json::object()};
  const Part window{"window", {0, 1}, {64, 0}, nlohmann::json::object()};
  const ModelFiles a = tiny_files({2, LayerPlan{{attention}}}, 1, /*qwen=*/true);
  ModelFiles b = a;
  b.config.plan = {2, LayerPlan{{window}}};
  ASSERT_TRUE(validate_plan(b.config).ok());
  auto store = std::make_shared<testing_support::RandomStore>(b.config, 1);
  for (const std::string& name : store->names()) {
    std::string other = name;
    if (const size_t at = other.find(".mixer."); at != std::string::npos) other.replace(at, 7, ".self_attn.");
    store->values(name) = *read_f32(*a.weights->tensor(other));
  }
  b.weights = store;
  const auto ma = load(a), mb = load(b);
  Engine ea(ma, pool()), eb(mb, pool());
  const auto tokens = some_tokens(60, 9);
  Sequence sa = ma->new_sequence(), sb = mb->new_sequence();
  EXPECT_LE(largest_difference(logits_of(ea, sa, tokens, {60}), logits_of(eb, sb, tokens, {9})), kFormTolerance);
}

TEST(Engine, WeightFormatsAreCloseToExact) {
  const ModelFiles files = tiny_files(testing_support::tiny_config().plan);
  const auto tokens = some_tokens(30, 9);
  const auto run = [&](WeightFormat format, EngineOptions options = {}) {
    const auto model = load(files, format);
    Engine engine(model, pool(), options);
    Sequence sequence = model->new_sequence();
    return logits_of(engine, sequence, tokens, {30});
  };
  const auto exact = run(WeightFormat::kF32);
  // Relative rounding of 2^-9, about 1/256 and about 1/16 of a weight, on logits of size 3.
  EXPECT_LE(largest_difference(run(WeightFormat::kBF16), exact), 0.1f);
  const auto rounded_inputs = run(WeightFormat::kBF16, {.bf16_activations = true});
  EXPECT_LE(largest_difference(rounded_inputs, exact), 0.2f);
  EXPECT_GT(largest_difference(rounded_inputs, run(WeightFormat::kBF16)), 1e-4f);
  EXPECT_LE(largest_difference(run(WeightFormat::kQ8_0), exact), 0.2f);
  EXPECT_LE(largest_difference(run(WeightFormat::kQ4_1), exact), 1.5f);
  EXPECT_GT(largest_difference(run(WeightFormat::kQ4_1), exact), 1e-3f);
}

TEST(Engine, ATokenOutsideTheVocabularyMovesNothing) {
  const auto model = load(tiny_files(testing_support::tiny_config().plan));
  Engine engine(model, pool());
  Sequence sequence = model->new_sequence();
  for (const int bad : {-1, 96}) {
    const std::vector<int> tokens{3, bad};
    const BatchItem item{&sequence, tokens, WantLogits::kLast};
    const auto status = engine.forward({&item, 1}, [](const LogitsRows&) {});
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("outside the vocabulary of 96"), std::string::npos);
    EXPECT_EQ(sequence.position(), 0);
  }
}

TEST(StateFile, CutDamagedOrForeignIsOneError) {
  const NamedPlan plan = plans_of_every_mixer().back();
  const ModelFiles files = tiny_files(plan.plan);
  const auto model = load(files), other = load(tiny_files(plan.plan, /*seed=*/2));
  Engine engine(model, pool()), other_engine(other, pool());
  const std::string path = testing::TempDir() + "retort_bad.state";
  Session session(engine);
  session.commit(some_tokens(20, 1));
  ASSERT_TRUE(session.consume().ok());
  ASSERT_TRUE(session.save(path).ok());
  std::string bytes;
  {
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  const auto load_bytes = [&](const std::string& content) {
    std::ofstream(path, std::ios::binary | std::ios::trunc).write(content.data(), std::streamsize(content.size()));
    Session s(engine);
    return s.load(path);
  };
  ASSERT_TRUE(load_bytes(bytes).ok());
  Session foreign(other_engine);
  const std::string of_others = foreign.load(path).error().message;
  EXPECT_NE(of_others.find("belongs to model"), std::string::npos);
  EXPECT_NE(of_others.find(": the weights differ"), std::string::npos);
  for (size_t size = 0; size < bytes.size(); size += size < 200 ? 1 : 997) {
    const auto status = load_bytes(bytes.substr(0, size));
    ASSERT_FALSE(status.ok()) << size;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidInput);
  }
  for (size_t at = 0; at < bytes.size(); at += 211) {
    std::string flipped = bytes;
    flipped[at] ^= 0x40;
    EXPECT_FALSE(load_bytes(flipped).ok()) << at;
  }
  EXPECT_FALSE(load_bytes(bytes + "x").ok());
  // In memory it is the same bytes, read by the same reader.
  const auto state = read_state(std::as_bytes(std::span(bytes)), "bytes", model->identity(), model->layout());
  ASSERT_TRUE(state.ok()) << state.error().message;
  EXPECT_TRUE(state_content(model->identity(), state->tokens, state->sequence, state->logits) == bytes);
  const auto cut = read_state(std::as_bytes(std::span(bytes)).first(40), "bytes", model->identity(), model->layout());
  ASSERT_FALSE(cut.ok());
  EXPECT_EQ(cut.error().message.find("bytes: cut at byte 40"), 0u) << cut.error().message;
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace retort
