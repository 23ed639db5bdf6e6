// What a rendering stands on: scopes, the budget of work, values within bounds, output.
#include "io/jinja_interpreter.h"

#include <algorithm>

#include "io/utf8.h"

namespace retort::jinja {

Value* Scope::find(const std::string& name) {
  for (auto& [key, value] : variables) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  if (Value* known = find(name)) {
    *known = std::move(value);
  } else {
    variables.emplace_back(name, std::move(value));
  }
}

const Value* Arguments::get(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Interpreter::~Interpreter() {
  for (auto& space : namespaces_) space->items.clear();
}

Value Interpreter::fail(const std::string& message) {
  if (!error_) error_ = template_error(line_, message);
  return {};
}

void Interpreter::charge(size_t work) {
  steps_ += 1 + work / 64;
  if (steps_ > options_.max_steps) fail(cat("more than ", options_.max_steps, " steps of work"));
}

Value Interpreter::make_list(std::vector<Value> items, bool tuple) {
  charge(items.size() * 8);
  if (items.size() > kMaxItems) return fail(cat("a list of more than ", kMaxItems, " items"));
  auto list = std::make_shared<List>();
  for (const Value& v : items) list->depth = std::max(list->depth, 1 + depth_of(v));
  if (list->depth > kMaxValueDepth) return fail(cat("values nested more than ", kMaxValueDepth, " deep"));
  list->items = std::move(items);
  return Value(std::move(list), tuple);
}

Value Interpreter::make_dict(std::vector<std::pair<Value, Value>> items) {
  charge(items.size() * items.size());
  if (failed()) return {};
  auto dict = std::make_shared<Dict>();
  for (auto& [key, value] : items) {
    if (key.is(Type::kList) || key.is_dict()) return fail(cat("a ", type_name(key), " cannot be a key"));
    dict->set(key, std::move(value));
  }
  if (dict->depth > kMaxValueDepth) return fail(cat("values nested more than ", kMaxValueDepth, " deep"));
  return Value(std::move(dict));
}

Value Interpreter::make_text(Text text) {
  charge(text.s.size());
  if (text.s.size() > options_.max_output) return fail(cat("a string of more than ", options_.max_output, " bytes"));
  return Value(std::move(text));
}

bool Interpreter::items_of(const Value& v, std::vector<Value>& out) {
  out.clear();
  if (v.is_sequence()) {
    out = v.list().items;
  } else if (v.is(Type::kDict)) {
    for (const auto& item : v.dict().items) out.push_back(item.first);
  } else if (v.is_string()) {
    const Text& t = v.text();
    charge(t.s.size() * 16);
    for (size_t pos = 0; pos < t.s.size() && !failed();) {
      const size_t start = pos;
      utf8::next(t.s, pos);
      out.push_back(Value(t.substr(start, pos - start)));
    }
  } else if (!v.is(Type::kUndefined)) {
    fail(cat("a ", type_name(v), " cannot be iterated over"));
    return false;
  }
  charge(out.size());
  return !failed();
}

void Interpreter::write(const Text& text) {
  charge(text.s.size());
  if (out_->s.size() + text.s.size() > options_.max_output) {
    fail(cat("more than ", options_.max_output, " bytes of output"));
    return;
  }
  out_->append(text);
}

Text Interpreter::captured(const std::vector<NodePtr>& nodes) {
  Text text;
  Text* const outer = std::exchange(out_, &text);
  run(nodes);
  out_ = outer;
  return text;
}

Result<Rendered> Interpreter::render(const TemplateBody& body) {
  scopes_.push_back({&globals_, {}});
  scope_ = &scopes_.back();
  run(body.nodes);
  if (error_) return *error_;
  Rendered out;
  out.text = std::move(output_.s);
  const std::string& mask = output_.mask;
  for (size_t i = 0; (i = mask.find('\1', i)) != std::string::npos;) {
    const size_t end = std::min(mask.find('\0', i), mask.size());
    out.untrusted.emplace_back(i, end);
    i = end;
  }
  return out;
}

Result<Template> Template::parse(std::string_view source) {
  RETORT_TRY(TemplateBody body, parse_template(source));
  Template out;
  out.body_ = std::make_shared<const TemplateBody>(std::move(body));
  return out;
}

Result<Rendered> Template::render(const nlohmann::ordered_json& variables, const RenderOptions& options) const {
  Interpreter interpreter(options);
  if (variables.is_object()) {
    for (const auto& [name, value] : variables.items()) {
      const bool untrusted = std::find(options.untrusted.begin(), options.untrusted.end(), name) != options.untrusted.end();
      interpreter.set_global(name, from_json(value, untrusted));
    }
  }
  if (!body_) return Rendered{};
  return interpreter.render(*body_);
}

}  // namespace retort::jinja
