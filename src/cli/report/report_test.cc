#include <cmath>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "cli/report/charts.h"
#include "cli/report/html.h"

namespace retort::cli {
namespace {

class ReportTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "retort_report_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ + "/" + name) << text; }
  std::string folder_;
};

}  // namespace

TEST_F(ReportTest, EverythingFromTheRunIsEscaped) {
  const std::string evil = "<script>alert(1)</script>\\\"&'";
  write("results.json", "{\"teacher\": {\"name\": \"" + evil + "\", \"perplexity\": 9.5, \"sample\": \"" + evil + "\"}, \"students\": [{\"name\": \"" +
        evil + "\", \"mixers\": \"" + evil + "\", \"kept\": \"" + evil + "\", \"perplexity\": 10, \"perplexity_init\": 12, \"copy_perplexity\": 2,"
        "\"perplexities\": [{\"corpus\": \"" + evil + "\", \"window\": 512, \"perplexity\": 10, \"ratio\": 1.1}]}], \"prompt\": \"" + evil +
        "\", \"machine\": {\"cpu\": \"" + evil + "\"}, \"recipe\": {\"" + evil + "\": \"" + evil + "\"}}");
  write("metrics.jsonl", "{\"stage\": \"" + evil + "\", \"step\": 1, \"loss\": 2.0}\n");
  const auto run = read_run(folder_);
  ASSERT_TRUE(run.ok()) << run.error().message;
  const auto page = report_html(*run);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("alert(1)<"), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;"), std::string::npos);
  EXPECT_EQ(overview_svg(*run).find("<script"), std::string::npos);
}

TEST_F(ReportTest, ThePageLoadsNothingFromElsewhere) {
  write("results.json", R"({"teacher": {"perplexity": 9.5}, "students": [{"name": "pure", "perplexity": 12, "perplexity_init": 15}]})");
  const auto run = read_run(folder_);
  ASSERT_TRUE(run.ok());
  const auto page = report_html(*run);
  for (const char* word : {"src=", "href=", "url(", "@import"}) EXPECT_EQ(page.find(word), std::string::npos) << word;
  EXPECT_NE(page.find("<svg"), std::string::npos);
}

TEST_F(ReportTest, WrongTypesNameTheField) {
  write("results.json", R"({"students": [{"name": "a", "throughput": [{"context": "long"}]}]})");
  const auto run = read_run(folder_);
  ASSERT_FALSE(run.ok());
  EXPECT_NE(run.error().message.find("students[0].throughput[0].context: a number is expected"), std::string::npos) << run.error().message;
  write("results.json", "{");
  EXPECT_EQ(read_run(folder_).error().code, ErrorCode::kInvalidInput);
  write("results.json", "[]");
  EXPECT_FALSE(read_run(folder_).ok());
}

TEST_F(ReportTest, ARunThatWasKilledOrResumedIsReadable) {
  write("metrics.jsonl",
        "{\"stage\": \"a\", \"step\": 1, \"loss\": 3}\n{\"stage\": \"a\", \"step\": 2, \"loss\": 2}\n"
        "{\"stage\": \"a\", \"step\": 2, \"loss\": 1}\n{\"stage\": \"a\", \"st");
  const auto run = read_run(folder_);
  ASSERT_TRUE(run.ok()) << run.error().message;
  ASSERT_EQ(run->stages.size(), 1u);
  ASSERT_EQ(run->stages[0].points.size(), 2u);  // the resumed step 2 replaces the first one
  EXPECT_EQ(run->stages[0].points[1].loss, 1);
  EXPECT_FALSE(run->finished);
  EXPECT_NE(report_html(*run).find("not finished"), std::string::npos);
}

TEST(Ticks, AreRoundAndInside) {
  EXPECT_EQ(ticks(0, 10, false), (std::vector<double>{0, 5, 10}));
  EXPECT_EQ(ticks(100, 10000000, true), (std::vector<double>{100, 1000, 10000, 100000, 1000000, 10000000}));
  for (bool logarithmic : {false, true}) {
    for (double least : {1e-6, 0.9, 12.5, 3e7}) {
      const auto list = ticks(least, least * 1.3, logarithmic);
      EXPECT_GE(list.size(), 2u) << least << " " << logarithmic;
      for (double t : list) EXPECT_TRUE(t >= least * 0.999 && t <= least * 1.301) << t;
    }
  }
  EXPECT_TRUE(ticks(1, 1, false).empty());
  EXPECT_TRUE(ticks(0, INFINITY, false).empty());
}

TEST(Plot, NothingToDrawIsNothing) {
  EXPECT_EQ(draw(LinePlot{}), "");
  EXPECT_EQ(draw(BarPlot{}), "");
  LinePlot plot;
  plot.log_y = true;
  plot.series.push_back({"a", 1, {{1, 0}, {2, -1}, {3, NAN}}});
  EXPECT_EQ(draw(plot), "") << "a logarithmic axis has no place for these";
}

TEST(Escape, MakesInvalidTextValid) {
  EXPECT_EQ(escape("a\xff" "b<\x01>"), "a\xEF\xBF\xBD" "b&lt;\xEF\xBF\xBD&gt;");
  EXPECT_EQ(escape("é\n"), "é\n");
}

}  // namespace retort::cli
