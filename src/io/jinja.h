// The part of Jinja that chat templates use, rendered as `transformers` renders it (trim_blocks, lstrip_blocks, loop
// controls, {% generation %}, tojson without escapes, raise_exception, strftime_now).
//
// Templates come with model files, so they are hostile until shown otherwise: work, output and nesting are bounded, and a
// template sees nothing but its variables. Text that came from a user stays marked as such through every operation.
//
// Layer: io. A Template is constant: render it from any thread.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace retort::jinja {

struct RenderOptions {
  std::vector<std::string> untrusted;  // variables whose strings are a user's
  size_t max_steps = 4'000'000;        // a step is a node, or 64 bytes or items touched
  size_t max_output = size_t(64) << 20;
  std::optional<std::tm> now;          // for strftime_now; unset: local time
};

struct Rendered {
  std::string text;
  std::vector<std::pair<size_t, size_t>> untrusted;  // [first, last) in bytes, in order
};

struct TemplateBody;

class Template {
 public:
  Template() = default;  // renders nothing
  static Result<Template> parse(std::string_view source);
  Result<Rendered> render(const nlohmann::ordered_json& variables, const RenderOptions& options = {}) const;

 private:
  std::shared_ptr<const TemplateBody> body_;
};

}  // namespace retort::jinja
