#include "train/preflight.h"

#include <gtest/gtest.h>

#include "support/fake_backend.h"
#include "test_files.h"
#include "train/data_files.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

Recipe recipe(const std::string& stages) {
  auto parsed = parse_recipe("name: a\nstudent: {mixer: slots, window: 8}\ndefaults: {seq: 16, lr: 0.1, steps: 3}\nstages:\n" + stages, "a.yaml");
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return *parsed;
}

ModelConfig student() { return *pure_student(fake::fake_config(), recipe("- {name: x, loss: ce}\n").student); }

Recipe reading(const std::vector<std::string>& files) {
  Recipe out;
  for (const auto& file : files) out.data.train.push_back({file});
  return out;
}

TEST(Preflight, DiskNeedsGrowWithWhatTrains) {
  const int64_t mixers = disk_needs(recipe("- {name: x, loss: attn_out}\n"), student()).checkpoint;
  const int64_t averaged = disk_needs(recipe("- {name: x, loss: attn_out, ema: 0.9}\n"), student()).checkpoint;
  const int64_t trains = trained(recipe("- {name: x, loss: attn_out}\n").stages[0], student()).parameters;
  EXPECT_EQ(averaged - mixers, 4 * trains);
  EXPECT_GE(mixers, 3 * 4 * trains) << "weights and two moments";
  EXPECT_GT(disk_needs(recipe("- {name: x, loss: ce, train: [all]}\n"), student()).checkpoint, mixers);
}

TEST(Preflight, NoRoomIsAnError) {
  test::TempFolder folder;
  EXPECT_GT(free_bytes(folder / "not/yet/there"), 0);
  EXPECT_TRUE(check_room(recipe("- {name: x, loss: ce}\n"), student(), folder / "not/yet/there").ok());
  EXPECT_FALSE(std::filesystem::exists(folder / "not"));
  ModelConfig huge = student();
  huge.vocab_size = 2000000000, huge.width = 1 << 20;
  const auto status = check_room(recipe("- {name: x, loss: ce, train: [mixers]}\n"), huge, folder / "run");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("are free there"), std::string::npos) << status.error().message;
  test::write_file(folder / "file", "x");
  EXPECT_FALSE(check_room(recipe("- {name: x, loss: ce}\n"), student(), folder / "file/run").ok());
}

TEST(Preflight, RowsThatNeverLeaveAWindowAreNamed) {
  const auto lines = [](const std::string& stages, const std::string& student = "{mixer: slots, window: 8, sinks: 2}") {
    const auto r = parse_recipe("name: a\nstudent: " + student + "\ndefaults: {lr: 0.1, steps: 3}\nstages:\n" + stages, "a.yaml");
    EXPECT_TRUE(r.ok()) << r.error().message;
    return short_rows(*r, *pure_student(fake::fake_config(), r->student));
  };
  const auto found = lines("- {name: x, loss: ce, seq: 10}\n- {name: y, loss: ce, seq: 11}\n");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rfind("x.seq is 10, and the window before 'slots' of 8 tokens and 2 sinks holds such a row whole", 0), 0u) << found[0];
  EXPECT_NE(found[0].find("expected a seq above 10"), std::string::npos) << found[0];
  EXPECT_TRUE(lines("- {name: x, loss: ce, seq: 4}\n", "{mixer: window, window: 8, sinks: 2}").empty()) << "nothing is behind it";
  EXPECT_TRUE(lines("- {name: x, loss: ce, seq: 4}\n", "{mixer: gla, window: 0}").empty());
  EXPECT_TRUE(lines("- {name: x, loss: ce, seq: 4}\n", "{mixer: gla, window: 0, layers: [{layers: 1, mixer: slots, window: 9}], keep: [1]}").empty());
  const auto widest = lines("- {name: x, loss: ce, seq: 5}\n", "{mixer: slots, window: 6, layers: [{layers: 1, mixer: gla, window: 9}]}");
  ASSERT_EQ(widest.size(), 1u) << "one line, of the widest";
  EXPECT_NE(widest[0].find("'gla' of 9 tokens"), std::string::npos) << widest[0];
}

TEST(DataFiles, TheOneThatDiffersIsNamed) {
  test::TempFolder folder;
  test::write_file(folder / "a.jsonl", "abc");
  std::filesystem::create_directories(folder / "b");
  test::write_file(folder / "b/2.txt", "");
  test::write_file(folder / "b/1.txt", "x");
  const auto files = data_files(reading({folder / "a.jsonl", folder / "b"}));
  ASSERT_TRUE(files.ok()) << files.error().message;
  ASSERT_EQ(files->size(), 3u);
  EXPECT_EQ((*files)[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-4's own example
  EXPECT_EQ((*files)[1].file, folder / "b/1.txt");
  const auto before = data_files_json(*files);
  EXPECT_EQ(data_difference(before, *files), "");
  auto now = *files;
  now[1].file = "elsewhere.txt";
  EXPECT_EQ(data_difference(before, now), "") << "names alone do not count";
  now[1].sha256[0] ^= 1;
  EXPECT_EQ(data_difference(before, now).rfind("elsewhere.txt: ", 0), 0u);
  now = *files;
  now.push_back({"new.txt", 1, "00"});
  EXPECT_EQ(data_difference(before, now).rfind("new.txt: ", 0), 0u);
  now.resize(2);
  EXPECT_EQ(data_difference(before, now).rfind(folder / "b/2.txt: ", 0), 0u);
  EXPECT_EQ(data_difference(nullptr, now), "");
  const auto missing = data_files(reading({folder / "nowhere.txt"}));
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("nowhere.txt"), std::string::npos);
}

}  // namespace
}  // namespace retort::train
