// What every mixer of the registry must obey, on the double-precision reference.
#include "conformance/harness.h"

namespace retort::conformance {
namespace {

constexpr int64_t kRows = 37;

TEST(MixerLaws, StepChunkedAndMatrixAgree) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const auto x = random_rows(kRows, w.config.width, 1);
    const auto step = reference<Mixer>(w, ReferenceForm::kStep, x);
    EXPECT_LT(distance(reference<Mixer>(w, ReferenceForm::kChunked, x, 7).values, step.values), 1e-9);
    EXPECT_LT(distance(reference<Mixer>(w, ReferenceForm::kChunked, x, 64).values, step.values), 1e-9);
    EXPECT_LT(distance(reference<Mixer>(w, ReferenceForm::kMatrix, x).values, step.values), 1e-9);
    double size = 0;
    for (double e : step.values) size = std::max(size, std::fabs(e));
    EXPECT_GT(size, 1e-3) << "the output is next to nothing: this world tests nothing";
  });
}

TEST(MixerLaws, MatricesAreCausalAndNormalisedOnesSumToAtMostOne) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const auto x = random_rows(kRows, w.config.width, 2);
    ReferenceState state;
    std::vector<ReferenceOps::Matrix> matrices;
    reference<Mixer>(w, ReferenceForm::kMatrix, {{&state, kRows}}, x, 7, &matrices);
    ASSERT_FALSE(matrices.empty());
    for (const auto& m : matrices) {
      ASSERT_EQ(m.weights.size(), size_t(kRows));
      RecurrenceSpec spec;
      spec.normaliser = Normaliser::kSum;  // softmax
      if constexpr (Mixer::kRecurrent) {
        if (m.recurrent) spec = part_recurrence<Mixer>(*parse_config<Mixer>(w.part().config), w.shape);
      }
      for (size_t t = 0; t < m.weights.size(); ++t) {
        EXPECT_EQ(m.weights[t].size(), t + 1);
        double sum = 0;
        for (double e : m.weights[t]) sum += e;
        const bool whole = spec.joins() && spec.norm_eps == 0 && !(m.recurrent && sum == 0);
        if (whole) {
          EXPECT_NEAR(sum, 1, 1e-9) << " at " << t;
        } else if (spec.normaliser != Normaliser::kNone) {
          EXPECT_LT(std::fabs(sum), 1 + 1e-9) << " at " << t;
        }
      }
    }
  });
}

TEST(MixerLaws, TheFutureChangesNothing) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    auto x = random_rows(kRows, w.config.width, 3);
    for (ReferenceForm form : {ReferenceForm::kStep, ReferenceForm::kChunked, ReferenceForm::kMatrix}) {
      const auto before = reference<Mixer>(w, form, x);
      const int64_t t = 20;
      auto changed = x;
      for (int64_t i = t * x.columns; i < x.rows * x.columns; ++i) changed.values[size_t(i)] += 1;
      const auto after = reference<Mixer>(w, form, changed);
      EXPECT_EQ(distance(slice(after, 0, t).values, slice(before, 0, t).values), 0);
      EXPECT_GT(distance(slice(after, t, kRows - t).values, slice(before, t, kRows - t).values), 1e-3);
    }
  });
}

TEST(MixerLaws, SplitAnywhere) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const auto x = random_rows(kRows, w.config.width, 4);
    const auto whole = reference<Mixer>(w, ReferenceForm::kStep, x);
    std::mt19937 random(5);
    for (ReferenceForm form : {ReferenceForm::kStep, ReferenceForm::kChunked, ReferenceForm::kMatrix}) {
      for (int trial = 0; trial < 2; ++trial) {
        ReferenceState state;
        for (int64_t t = 0; t < kRows;) {
          const int64_t n = std::min<int64_t>(1 + int64_t(random() % 11), kRows - t);
          const auto y = reference<Mixer>(w, form, {{&state, n}}, slice(x, t, n), 4);
          EXPECT_LT(distance(y.values, slice(whole, t, n).values), 1e-9) << "from " << t;
          t += n;
        }
      }
    }
  });
}

TEST(MixerLaws, BatchingChangesNothing) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const int64_t sizes[] = {13, 1, 23};
    const auto x = random_rows(kRows, w.config.width, 6);
    ReferenceState states[3];
    std::vector<ReferenceOps::Segment> segments;
    for (int i = 0; i < 3; ++i) segments.push_back({&states[i], sizes[i]});
    const auto together = reference<Mixer>(w, ReferenceForm::kStep, segments, x);
    for (int64_t i = 0, first = 0; i < 3; first += sizes[i++]) {
      const auto alone = reference<Mixer>(w, ReferenceForm::kStep, slice(x, first, sizes[i]));
      EXPECT_EQ(distance(slice(together, first, sizes[i]).values, alone.values), 0) << "sequence " << i;
    }
  });
}

// Calls fn(name, least, most, whole number?) for every field.
template <class Fn>
struct FieldVisitor {
  Fn fn;
  template <class T, class L, class M>
  void operator()(const char* name, T&, L least, M most) {
    fn(name, double(least), double(most), std::is_integral_v<T>);
  }
};

TEST(MixerLaws, ConfigsRoundTripAndRefuseWhatIsOutOfRange) {
  for_each_mixer([](auto tag) {
    using Mixer = typename decltype(tag)::type;
    SCOPED_TRACE(Mixer::kName);
    typename Mixer::Config config;
    const nlohmann::json fields = config_json<Mixer>(config);
    ASSERT_TRUE(parse_config<Mixer>(fields).ok());
    EXPECT_EQ(config_json<Mixer>(*parse_config<Mixer>(fields)), fields);
    EXPECT_FALSE(parse_config<Mixer>(nlohmann::json::array()).ok());
    nlohmann::json unknown = fields;
    unknown["no such field"] = 1;
    EXPECT_NE(parse_config<Mixer>(unknown).error().message.find("no such field"), std::string::npos);
    const auto try_field = [&](const char* name, double least, double most, bool whole) {
      const auto with = [&](nlohmann::json value) {
        nlohmann::json changed = fields;
        changed[name] = std::move(value);
        return parse_config<Mixer>(changed);
      };
      const auto number = [&](double x) { return whole ? nlohmann::json(int64_t(x)) : nlohmann::json(x); };
      for (double good : {least, most}) {
        const auto parsed = with(number(good));
        if (!parsed.ok()) {  // only because it does not go with what another field usually is
          bool blames_another = false;
          for (const auto& [other, value] : fields.items()) {
            blames_another = blames_another || (other != name && parsed.error().message.find("'" + other + "'") != std::string::npos);
          }
          EXPECT_TRUE(blames_another) << name << ": " << parsed.error().message;
          continue;
        }
        EXPECT_EQ(config_json<Mixer>(*parsed)[name].template get<double>(), good) << name;
      }
      for (const nlohmann::json& bad : {number(least - 1), number(most + 1), nlohmann::json("3"), nlohmann::json(nullptr),
                                        nlohmann::json(true), nlohmann::json::array({3}), nlohmann::json(1e300)}) {
        const auto parsed = with(bad);
        ASSERT_FALSE(parsed.ok()) << name << " = " << bad.dump();
        EXPECT_NE(parsed.error().message.find(name), std::string::npos) << parsed.error().message;
      }
    };
    config.visit(FieldVisitor<decltype(try_field)>{try_field});
  });
}

}  // namespace
}  // namespace retort::conformance
