#include "train/reach.h"

#include <gtest/gtest.h>

#include "train/student_plan.h"

namespace retort::train {
namespace {

ModelConfig teacher() {
  ModelConfig c;
  c.layers = 6, c.width = 32, c.heads = 6, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 48, c.vocab_size = 100, c.context_length = 512;
  c.plan = attention_plan(c);
  return c;
}

Recipe recipe(const std::string& student, const std::string& loss) {
  auto parsed = parse_recipe(cat("name: a\nstudent: ", student, "\nstages:\n- {name: x, loss: ", loss, ", steps: 1, lr: 1}\n"), "a.yaml");
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return *parsed;
}

std::vector<std::string> names(const Reached& reached, const std::string& prefix) {
  std::vector<std::string> out;
  for (const auto& [name, ranges] : reached) {
    if (name.starts_with(prefix)) out.push_back(name.substr(prefix.size()));
  }
  return out;
}

Reached reach(const std::string& student, const std::string& loss) {
  const Recipe r = recipe(student, loss);
  return reached(r.stages[0], *pure_student(teacher(), r.student));
}

TEST(Reach, AMatrixIsMadeOfWhatSetsItsWeights) {
  using Names = std::vector<std::string>;
  const std::string layer = "model.layers.3.";
  EXPECT_EQ(names(reach("{mixer: window, window: 8}", "matrix"), layer),
            (Names{"input_layernorm.weight", "mixer.k_proj.weight", "mixer.q_proj.weight"}));
  EXPECT_EQ(names(reach("{mixer: gla, window: 0}", "matrix"), layer),
            (Names{"input_layernorm.weight", "mixer.gk_proj.0.weight", "mixer.gk_proj.1.bias", "mixer.gk_proj.1.weight", "mixer.k_proj.weight",
                   "mixer.q_proj.weight"}));
  EXPECT_EQ(names(reach("{mixer: retnet, window: 0}", "attn_xent"), layer),
            (Names{"input_layernorm.weight", "mixer.k_proj.weight", "mixer.q_proj.weight"}));
  EXPECT_EQ(names(reach("{mixer: slots, window: 8}", "matrix"), layer),
            (Names{"input_layernorm.weight", "mixer.join.gamma", "mixer.join.gate.bias", "mixer.join.gate.weight", "mixer.join.rho",
                   "mixer.k_proj.weight", "mixer.q_proj.weight", "mixer.read.bias", "mixer.read.weight", "mixer.write.bias", "mixer.write.weight"}));
}

TEST(Reach, RowsOfValuesBesideKeysAndQueriesStayOut) {
  const auto found = reach("{mixer: discrete_mamba2, window: 0}", "matrix");
  const std::string mixer = "model.layers.0.mixer.";
  const int64_t values = 2 * 8, rows = 2 * values + 6 * 8, width = 32, taps = 4;
  EXPECT_EQ(found.at(mixer + "in_proj.weight"), (std::vector<ElementRange>{{values * width, (rows - values) * width}}));
  EXPECT_EQ(found.at(mixer + "conv1d.weight"), (std::vector<ElementRange>{{values * taps, (rows - values) * taps}}));
  EXPECT_EQ(found.at(mixer + "conv1d.bias"), (std::vector<ElementRange>{{values, rows - values}}));
  EXPECT_EQ(found.at(mixer + "a_proj.weight"), (std::vector<ElementRange>{{0, 6 * width}}));
  EXPECT_TRUE(found.contains(mixer + "D")) << "the diagonal";
  for (const char* name : {"in_proj_z.weight", "z_bias", "out_proj.weight"}) EXPECT_FALSE(found.contains(mixer + name)) << name;
}

TEST(Reach, OtherLosses) {
  const std::string layer = "model.layers.0.", student = "{mixer: gla, window: 0}";
  const auto heads = reach(student, "{attn_out: {at: heads, form: mse}}"), output = reach(student, "attn_out"), hidden = reach(student, "hidden");
  EXPECT_FALSE(heads.contains(layer + "mixer.o_proj.weight"));
  EXPECT_TRUE(heads.contains(layer + "mixer.v_proj.weight"));
  EXPECT_TRUE(output.contains(layer + "mixer.o_proj.weight"));
  EXPECT_FALSE(output.contains(layer + "mlp.up_proj.weight"));
  EXPECT_TRUE(hidden.contains(layer + "mlp.up_proj.weight"));
  EXPECT_TRUE(hidden.contains(layer + "post_attention_layernorm.weight"));
  EXPECT_FALSE(hidden.contains("model.norm.weight"));
  EXPECT_TRUE(reach(student, "{matrix: 1, attn_out: 1}").contains(layer + "mixer.o_proj.weight"));
  EXPECT_TRUE(reach(student, "ce").contains("model.norm.weight"));
}

TEST(Reach, LossesThatAStudentCannotHaveAreRefused) {
  const auto error = [](const std::string& student, const std::string& loss) {
    const Recipe r = recipe(student, loss);
    const Status status = check_losses(r, *pure_student(teacher(), r.student));
    return status.ok() ? std::string() : status.error().message;
  };
  EXPECT_EQ(error("{mixer: mamba, window: 0}", "matrix"),
            "recipe: x.loss.matrix: mixer 'mamba' of layer 0 has no mixing matrix per head, as every channel has a decay of its own; use attn_out or hidden");
  EXPECT_EQ(error("{mixer: slots, layers: [{layers: 4, mixer: mamba}]}", "attn_xent").substr(0, 59),
            "recipe: x.loss.attn_xent: mixer 'mamba' of layer 4 has no m");
  EXPECT_EQ(error("{mixer: gla, window: 16}", "attn_xent"),
            "recipe: x.loss.attn_xent: rows of the mixing matrix of mixer 'gla' (layer 0) do not sum to 1; use matrix, or one of attention, window, "
            "slots, rebased, hedgehog");
  EXPECT_EQ(error("{mixer: gla, window: 0}", "{hidden: {gap: 4}}"),
            "recipe: x.loss.hidden.gap is 4, which does not divide the 6 layers of the model; 1 always does");
  for (const char* loss : {"matrix", "{hidden: {gap: 3}}"}) EXPECT_EQ(error("{mixer: gla, window: 16}", loss), "");
  EXPECT_EQ(error("{mixer: hedgehog, window: 16}", "attn_xent"), "");
  EXPECT_EQ(error("{mixer: mamba, window: 16}", "{attn_out: {at: heads}}"), "");
}

}  // namespace
}  // namespace retort::train
