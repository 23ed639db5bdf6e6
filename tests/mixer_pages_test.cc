// docs/mixers/ against the registry: every mixer has a page with equations, a picture, its start and its source, that names its fields with
// their defaults and has the sizes that the equations give for SmolLM2-135M.
#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/format.h"
#include "mixers/probe_ops.h"
#include "test_files.h"

namespace retort {
namespace {

const std::string kFolder = RETORT_MIXER_PAGES;

ModelConfig smollm2(const char* mixer, bool needs_window) {
  ModelConfig c;
  c.layers = 1, c.width = 576, c.heads = 9, c.kv_heads = 3, c.head_dim = 64, c.mlp_width = 1536, c.vocab_size = 49152, c.context_length = 8192;
  c.plan = {{{Part{mixer, {0, 1, 2}, needs_window ? WindowConfig{64, 4} : WindowConfig{}, nlohmann::json::object()}}}};
  return c;
}

TEST(MixerPages, EveryMixerHasOneThatSaysWhatTheCodeDoes) {
  const std::string index = test::read_file(kFolder + "/README.md");
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    const std::string name = Mixer::kName, page = test::read_file(kFolder + "/" + name + ".md");
    SCOPED_TRACE(name);
    ASSERT_FALSE(page.empty()) << "no page";
    EXPECT_NE(index.find("(" + name + ".md)"), std::string::npos) << "the index does not link it";
    std::vector<std::string> wanted = {"\n    ", "\n```mermaid\n", "\nSource: "};  // equations, a picture of the data flow
    if (Mixer::kRecurrent) wanted.push_back("\nStart: ");
    for (const std::string& piece : wanted) EXPECT_NE(page.find(piece), std::string::npos) << "the page has no '" << piece << "'";
    const nlohmann::json fields = config_json<Mixer>({});
    for (const auto& [field, value] : fields.items()) {
      const std::string row = "| `" + field + "` | ";
      const size_t at = page.find(row);
      ASSERT_NE(at, std::string::npos) << "no row for the field " << field;
      EXPECT_EQ(std::strtod(page.c_str() + at + row.size(), nullptr), value.template get<double>()) << "default of " << field;
    }
    ModelConfig c = smollm2(Mixer::kName, Mixer::kNeedsWindow);
    ASSERT_TRUE(validate_plan(c).ok());
    const Part& part = c.plan[0].parts[0];
    int64_t parameters = 0, bytes = 0;
    bool grows = false;
    for (const auto& spec : part_tensors(c, part)) parameters += spec.count();
    for (const auto& slot : part_states(c, part)) {
      grows = grows || slot.rows < 0;
      bytes += slot.rows < 0 ? 2 * slot.columns : 4 * slot.rows * slot.columns;  // growing: a token's, in 16 bits
    }
    for (int64_t number : {parameters, bytes}) {
      EXPECT_NE(page.find("| " + format_count(number)), std::string::npos) << "the page has not the number " << format_count(number);
    }
    if (!grows) EXPECT_NE(index.find("| " + format_count(bytes) + " | [" + name), std::string::npos) << "the index has another size than " << format_count(bytes);
  });
}

TEST(MixerPages, NoPageWithoutAMixer) {
  for (const auto& file : std::filesystem::directory_iterator(kFolder)) {
    const std::string name = file.path().stem();
    EXPECT_TRUE(name == "README" || visit_mixer(name, [](auto) {})) << file.path() << " is about no mixer";
  }
}

}  // namespace
}  // namespace retort
