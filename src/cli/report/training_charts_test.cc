#include "cli/report/training_charts.h"

#include <gtest/gtest.h>

#include "cli/report/html.h"
#include "test_files.h"

namespace retort::cli {
namespace {

constexpr const char* kLog =
    R"({"stage":"align","step":1,"steps":3,"loss":3.5,"loss/hidden":1.5,"loss/matrix":2,"lr":0.1,"grad_norm":9,"tokens":64,"tokens_per_s":100,"time":1,"layers":{"hidden":[1,null,2],"matrix":[3,2,1]}}
{"stage":"align","step":2,"steps":3,"loss":null,"loss/hidden":null,"loss/matrix":2,"lr":0.2,"tokens":128,"tokens_per_s":100,"time":2}
{"stage":"align","step":3,"steps":3,"loss":1.5,"loss/hidden":0.5,"loss/matrix":1,"lr":0.1,"tokens":192,"tokens_per_s":300,"time":3,"layers":{"hidden":[0.25,null,0.75],"matrix":[1,1,1]}}
{"stage":"dpo","step":1,"steps":1,"loss":0.7,"loss/dpo":0.7,"accuracy":0.5,"reward_chosen":-0.1,"lr":0.1,"tokens":200,"tokens_per_s":50,"time":4}
)";

class TrainingChartsTest : public ::testing::Test {
 protected:
  RunResults read(const std::string& log) {
    test::write_file(folder_ / "metrics.jsonl", log);
    auto run = read_run(folder_ / "");
    EXPECT_TRUE(run.ok()) << run.error().message;
    return run.ok() ? *run : RunResults();
  }
  test::TempFolder folder_;
};

}  // namespace

TEST_F(TrainingChartsTest, EveryLossHasItsCurve) {
  const auto run = read(kLog);
  ASSERT_EQ(run.stages.size(), 2u);
  const auto plot = loss_chart(run.stages[0]);
  ASSERT_EQ(plot.series.size(), 3u) << "the weighted sum and two losses";
  EXPECT_EQ(plot.series[1].name, "hidden");
  EXPECT_EQ(plot.series[1].points, (std::vector<std::pair<double, double>>{{1, 1.5}, {3, 0.5}}));
  EXPECT_EQ(plot.series[2].points, (std::vector<std::pair<double, double>>{{1, 2}, {3, 1}}));
  EXPECT_EQ(loss_chart(run.stages[1]).series.size(), 1u) << "a loss alone is no sum";
}

TEST_F(TrainingChartsTest, LayersFirstAgainstLast) {
  const auto run = read(kLog);
  const auto plots = layer_charts(run.stages[0]);
  ASSERT_EQ(plots.size(), 2u);
  ASSERT_EQ(plots[0].series.size(), 2u);
  EXPECT_EQ(plots[0].series[0].points, (std::vector<std::pair<double, double>>{{0, 1}, {2, 2}}));
  EXPECT_EQ(plots[0].series[1].points, (std::vector<std::pair<double, double>>{{0, 0.25}, {2, 0.75}}));
  EXPECT_TRUE(layer_charts(run.stages[1]).empty());
}

TEST_F(TrainingChartsTest, SkippedStepsAreCounted) {
  const auto rows = stage_table(read(kLog).stages);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[1], (std::vector<std::string>{"align", "3", "1", "3.500", "1.500", "300"}));
}

// A resumed run logs steps anew: the later lines count, for layers and for skipped steps too.
TEST_F(TrainingChartsTest, AResumedRunsLaterLinesCount) {
  const auto run = read(std::string(kLog) +
                        R"({"stage":"align","step":2,"loss":2,"loss/hidden":1,"lr":0.2,"layers":{"hidden":[0.5,0.5,0.5]}})" "\n");
  ASSERT_EQ(run.stages[0].points.size(), 2u);
  EXPECT_TRUE(run.stages[0].skipped.empty());
  ASSERT_EQ(run.stages[0].layers.size(), 2u);
  EXPECT_EQ(run.stages[0].layers[1].step, 2);
}

TEST_F(TrainingChartsTest, ThePageHasThemAll) {
  const auto page = report_html(read(kLog));
  for (const char* text : {"Layer by layer: hidden", "Layer by layer: matrix", "Learning rate", "Speed", "accuracy", "reward_chosen", "<h3>dpo</h3>"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  for (const char* text : {"<script", "src=", "href=", "url("}) EXPECT_EQ(page.find(text), std::string::npos) << text;
}

TEST_F(TrainingChartsTest, ASingleRunSaysWhatItIs) {
  test::write_file(folder_ / "recipe.json", R"({"name": "one <b>", "seed": 1})");
  EXPECT_NE(report_html(read(kLog)).find("<h1>one &lt;b&gt;</h1>"), std::string::npos);
  EXPECT_NE(report_html(read(kLog)).find("not finished"), std::string::npos);
  test::write_file(folder_ / "train.json", R"({"name": "one", "recipe": {"seed": 1}, "data_hash": "abc"})");
  EXPECT_EQ(report_html(read(kLog)).find("not finished"), std::string::npos);
}

}  // namespace retort::cli
