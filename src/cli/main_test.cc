#include "cli/main.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/command.h"
#include "cli/flags.h"
#include "run_cli.h"

namespace retort::cli {
namespace {

size_t lines(const std::string& text) { return size_t(std::count(text.begin(), text.end(), '\n')); }

}  // namespace

TEST(Main, HelpAndVersionGoToStandardOutput) {
  for (const char* flag : {"--help", "-h", "help", "--version"}) {
    const auto outcome = run({flag});
    EXPECT_EQ(outcome.code, 0) << flag;
    EXPECT_EQ(outcome.err, "") << flag;
    EXPECT_NE(outcome.out.find("retort"), std::string::npos) << flag;
  }
  EXPECT_EQ(run({}).out, run({"--help"}).out);
}

TEST(Main, UnknownCommandIsOneLineAndExitCodeTwo) {
  const auto outcome = run({"distil"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "retort: error: unknown command 'distil'; did you mean 'distill'?\n");
  EXPECT_EQ(outcome.out, "");
}

TEST(Main, EveryCommandRefusesUnknownFlagsAndHasHelp) {
  for (const auto& entry : command_list()) {
    const auto help = run({entry.name, "--help"});
    EXPECT_EQ(help.code, 0) << entry.name;
    for (const char* flag : {"--json", "--threads", "--seed", "--device"}) {
      EXPECT_NE(help.out.find(flag), std::string::npos) << entry.name << " " << flag;
    }
    const auto outcome = run({entry.name, "--jsno", "nowhere"});
    EXPECT_EQ(outcome.code, 2) << entry.name;
    EXPECT_EQ(lines(outcome.err), 1u) << outcome.err;
    EXPECT_NE(outcome.err.find("did you mean '--json'?"), std::string::npos) << outcome.err;
  }
}

TEST(Main, DeviceIsCheckedBeforeTheCommandRuns) {
  for (const auto& entry : command_list()) {
    for (const char* device : {"cuda", "cuda:1", "cuda:x", "tpu"}) {
      const auto outcome = run({entry.name, "nowhere", "--device", device});
      EXPECT_EQ(outcome.code, 2) << entry.name;
      EXPECT_NE(outcome.err.find(std::string("--device ") + device), std::string::npos) << outcome.err;
    }
  }
}

TEST(Main, SeedsAreWholeNumbers) {
  for (const char* seed : {"-1", "x", "1.5", "99999999999999999999999"}) {
    const auto outcome = run({"generate", "nowhere", "--seed", seed});
    EXPECT_EQ(outcome.code, 2) << seed;
    EXPECT_NE(outcome.err.find("--seed"), std::string::npos) << outcome.err;
  }
}

TEST(Main, ErrorsStayOneLineWhateverTheArgumentHolds) {
  const auto outcome = run({"bad\nname\r\nhere"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(lines(outcome.err), 1u) << outcome.err;
}

TEST(Flags, TwoLetterShortForms) {
  EXPECT_EQ(expand_short_forms({"-md", "draft", "-m", "x", "-np", "4"}),
            (std::vector<std::string>{"--model-draft", "draft", "-m", "x", "--parallel", "4"}));
}

}  // namespace retort::cli
