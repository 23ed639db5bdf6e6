// Any bytes as a chat template, rendered with a small conversation under tight limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/jinja.h"
#include "io/utf8.h"

using namespace retort;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto variables = nlohmann::ordered_json::parse(
      R"({"messages": [{"role": "user", "content": " Hi é "}, {"role": "assistant", "content": "x"}], "bos_token": "<s>",
          "add_generation_prompt": true, "tools": null, "n": 3, "f": 0.5, "l": [1, "b", [2, {"k": null}]]})");
  const auto parsed = jinja::Template::parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  jinja::RenderOptions options;
  options.untrusted = {"messages"};
  options.max_steps = 20'000;
  options.max_output = 1 << 16;
  const auto rendered = parsed->render(variables, options);
  if (!rendered.ok()) return 0;
  if (!utf8::is_valid(rendered->text)) std::abort();
  size_t last = 0;
  for (const auto& [first, end] : rendered->untrusted) {
    if (first < last || end <= first || end > rendered->text.size()) std::abort();
    last = end;
  }
  return 0;
}
