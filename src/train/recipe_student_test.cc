// What a recipe says of its student: mixers and their fields, layers, what is kept and where it starts.
#include "support/recipe_fixture.h"

namespace retort::train {
namespace {

// Another mixer starts from its own defaults, the same one keeps what the recipe says.
TEST_F(RecipeTest, FieldsGoWithTheirMixer) {
  EXPECT_TRUE(good({{"student.mixer", "gla", "--mixer gla"}}).student.config.empty());
  EXPECT_EQ(good({{"student.mixer", "slots", "--mixer slots"}}).student.config["slots"], 128);
  EXPECT_EQ(good({{"student.mixer", "gla", "--mixer gla"}, {"student.config.gate_rank", "8", "--set"}}).student.config["gate_rank"], 8);
}

TEST_F(RecipeTest, FieldsThatDoNotGoTogetherAreBlamedOnTheFlag) {
  const auto wrong = [](const char* mixer, const char* key, const char* value) {
    const auto r = parse_recipe(kGood, "a.yaml", {{"student.mixer", mixer, "--mixer"}, {"student.config", "{}", "--set ..."},
                                                  {cat("student.config.", key), value, cat("--set student.config.", key, "=", value)}});
    return r.ok() ? std::string() : r.error().message;
  };
  expect_has(wrong("mamba", "dt_max", "1e-4"),
             {"--set student.config.dt_max=1e-4: student: mixer 'mamba': 'dt_min' is 0.001, more than 'dt_max', 0.0001"});
  expect_has(wrong("mlstm", "soft_cap", "5"), {"--set student.config.soft_cap=5", "'retention' is 0.9975", "'soft_cap' 5", "0.993"});
  EXPECT_EQ(wrong("mlstm", "soft_cap", "7"), "");
}

TEST_F(RecipeTest, Keep) {
  for (const char* text : {"none", "heads:12", "layers:6", "0.25", "list:7,18.2,23"}) {
    const auto keep = parse_keep(text);
    ASSERT_TRUE(keep.ok()) << text;
    EXPECT_EQ(keep_text(*keep), text);
  }
  for (const char* text : {"", "heads", "heads:", "heads:x", "heads:-1", "1.5", "list:", "list:a", "list:1.", "layers:1.5", "7,14x"}) {
    EXPECT_FALSE(parse_keep(text).ok()) << text;
  }
}

TEST_F(RecipeTest, Numbers) {
  EXPECT_EQ(*parse_numbers("7, 0-3"), (std::vector<int>{0, 1, 2, 3, 7}));
  for (const char* text : {"0", "0-3,7", "1,3,5-6"}) EXPECT_EQ(numbers_text(*parse_numbers(text)), text);
  for (const char* text : {"", "a", "-1", "3-1", "1-", "1,,2", "1,1", "0-3,2", "1.5", "123456"}) EXPECT_FALSE(parse_numbers(text).ok()) << text;
}

TEST_F(RecipeTest, Init) {
  EXPECT_EQ(good().student.init, StudentInit::kTeacher);
  const Recipe r = good({{"student.init", "random", "--set ..."}});
  EXPECT_EQ(r.student.init, StudentInit::kRandom);
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(again->student.init, StudentInit::kRandom);
  expect_has(error_of("keep: heads:12", "init: randm"), {"a.yaml:3", "unknown init 'randm'; did you mean 'random'"});
  expect_has(error_of("keep: heads:12", "init: random, start: runs/a"), {"a.yaml:3", "'init' is random", "runs/a"});
}

TEST_F(RecipeTest, Stepwise) {
  EXPECT_FALSE(good().student.stepwise.any());
  const auto with = [](const char* keep, const char* stepwise) {
    return parse_recipe(kGood, "a.yaml", {{"student.keep", keep, "--keep"}, {"student.stepwise", stepwise, "--set student.stepwise"}});
  };
  for (const char* value : {"[0.75, 0.5]", "[0.75]", "0.75", "one_by_one"}) {
    const auto r = with("0.25", value);
    ASSERT_TRUE(r.ok()) << r.error().message;
    EXPECT_TRUE(r->student.stepwise.any());
    const auto again = parse_recipe(resolved_yaml(*r), "resolved.yaml");
    ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(*r);
    EXPECT_EQ(again->student.stepwise.shares, r->student.stepwise.shares);
    EXPECT_EQ(again->student.stepwise.one_by_one, r->student.stepwise.one_by_one);
    EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(*r).dump(1));
  }
  EXPECT_EQ(with("0.25", "[0.75, 0.5]")->student.stepwise.shares, (std::vector<double>{0.75, 0.5}));
  EXPECT_FALSE(with("0.25", "[]")->student.stepwise.any());
  for (const char* value : {"[0.5, 0.75]", "[1]", "[0]", "[0.5, 0.5]", "all", "{a: 1}", "[[0.5]]"}) {
    const auto r = with("0.25", value);
    ASSERT_FALSE(r.ok()) << value;
    expect_has(r.error().message, {"--set student.stepwise", "'stepwise' must be one_by_one, or the falling shares"});
  }
  expect_has(with("heads:3", "[0.5]").error().message, {"'keep' is heads:3, which is measured"});
}

TEST_F(RecipeTest, OtherMixersInSomeLayers) {
  const Recipe r = good({{"student.layers", "[{layers: '0-1,4', mixer: gla, config: {retention: 0.9}}, {layers: [2, 3], heads: 0, window: 16},"
                                            " {layers: 2, heads: [1, 2], mixer: retnet, window: 0}]", "--set ..."}});
  ASSERT_EQ(r.student.layers.size(), 3u);
  const LayerSpec &gla = r.student.layers[0], &slots = r.student.layers[1], &retnet = r.student.layers[2];
  EXPECT_EQ(gla.layers, (std::vector<int>{0, 1, 4}));
  EXPECT_TRUE(gla.heads.empty());
  EXPECT_EQ(gla.window, (WindowConfig{64, 4})) << "as the student's";
  EXPECT_EQ(gla.config, (nlohmann::json{{"retention", 0.9}}));
  EXPECT_EQ(slots.mixer, "slots");
  EXPECT_EQ(slots.config["slots"], 128) << "the same mixer keeps the student's fields";
  EXPECT_EQ(slots.window, (WindowConfig{16, 4}));
  EXPECT_EQ(retnet.heads, (std::vector<int>{1, 2}));
  EXPECT_TRUE(retnet.config.empty()) << "another mixer does not";
  EXPECT_EQ(retnet.window, WindowConfig());
  const auto again = parse_recipe(resolved_yaml(r), "resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << resolved_yaml(r);
  EXPECT_EQ(recipe_json(*again).dump(1), recipe_json(r).dump(1));
  EXPECT_EQ(good({{"student.layers", "[]", "--set ..."}}).student.layers.size(), 0u);
}

TEST_F(RecipeTest, OtherMixersThatCannotBe) {
  const auto error = [](const std::string& layers) { return error_of("keep: heads:12", "layers: " + layers); };
  expect_has(error("3"), {"a.yaml:3", "'layers' must be a list"});
  expect_has(error("[gla]"), {"a.yaml:3", "student.layers[0] must be a mapping"});
  expect_has(error("[{mixer: gla}]"), {"a.yaml:3", "student.layers[0] needs 'layers'"});
  expect_has(error("[{layers: 3-1}]"), {"student.layers[0]: 'layers' is '3-1'", "0-3,7"});
  expect_has(error("[{layers: 0, heads: [1, 1]}]"), {"student.layers[0]: 'heads' is '1,1'", "once"});
  expect_has(error("[{layers: 0, mixer: glaa}]"), {"student.layers[0]: unknown mixer 'glaa'", "gla"});
  expect_has(error("[{layers: 0, mixer: gla, config: {slots: 3}}]"), {"student.layers[0]: mixer 'gla' has no field 'slots'"});
  expect_has(error("[{layers: 0, mixer: window, window: 0}]"), {"student.layers[0]: mixer 'window' needs a window"});
  expect_has(error("[{layers: 0, mixer: attention, window: 8}]"), {"student.layers[0]: mixer 'attention' takes no window"});
  expect_has(error("[{layers: 0, kv_heads: 1}]"), {"student.layers[0]: unknown key 'kv_heads'", "heads"});
  expect_has(error("[{layers: 0-3, mixer: gla}, {layers: 2, mixer: retnet}]"), {"student.layers[1]: layer 2 is in student.layers[0] too"});
  expect_has(error("[{layers: 2, heads: 0}, {layers: 2}]"), {"student.layers[1]: layer 2 is in student.layers[0] too"});
  expect_has(error("[{layers: 2, heads: 0-1}, {layers: 2, heads: 1}]"), {"student.layers[1]: kv head 1 of layer 2 is in student.layers[0] too"});
  const auto flag = parse_recipe(kGood, "a.yaml", {{"student.layers", "[{layers: 0, mixer: mambo}]", "--set student.layers=..."}});
  ASSERT_FALSE(flag.ok());
  expect_has(flag.error().message, {"--set student.layers=...: student.layers[0]: unknown mixer 'mambo'"});
}

}  // namespace
}  // namespace retort::train
