// Arguments, functions, macros, {% call %} and filters.
#include "io/jinja_interpreter.h"

#include <algorithm>

namespace retort::jinja {

Arguments Interpreter::arguments(const Node& node, size_t first) {
  Arguments out;
  for (size_t i = first; i < node.kids.size(); ++i) out.positional.push_back(eval(*node.kids[i]));
  for (const auto& [name, value] : node.named) out.named.emplace_back(name, eval(*value));
  line_ = node.line;
  return out;
}

Value Interpreter::call(const Value& function, Arguments given) {
  if (failed()) return {};
  if (function.is(Type::kUndefined)) return fail(cat(function.undefined_name(), " is undefined, so it cannot be called"));
  if (!function.is(Type::kCallable)) return fail(cat("a ", type_name(function), " cannot be called"));
  Callable& c = function.callable();
  switch (c.kind) {
    case Callable::Kind::kMacro: return call_macro(c, std::move(given));
    case Callable::Kind::kMethod: return Builtins::method(*this, c.self, c.name, given);
    case Callable::Kind::kJoiner: return c.position++ == 0 ? Value("") : c.self;
    case Callable::Kind::kCycler: return fail("a cycler is advanced by next()");
    case Callable::Kind::kGlobal: break;
  }
  return Builtins::global(*this, c.name, given);
}

void Interpreter::define_macro(const Node& node) {
  auto macro = std::make_shared<Callable>();
  macro->kind = Callable::Kind::kMacro;
  macro->name = node.name;
  macro->macro = &node;
  macro->scope = scope_;
  ++macros_defined_;
  scope_->set(node.name, Value(std::move(macro)));
}

Value Interpreter::call_macro(const Callable& macro, Arguments given) {
  const Node& node = *macro.macro;
  scopes_.push_back({macro.scope, {}});
  Scope* const outer = scope_;
  Scope* const inner = &scopes_.back();
  const size_t macros = macros_defined_;
  scope_ = inner;
  std::vector<Value> rest;
  for (size_t i = 0; i < given.positional.size(); ++i) {
    if (i < node.named.size()) {
      inner->set(node.named[i].first, given.positional[i]);
    } else {
      rest.push_back(given.positional[i]);
    }
  }
  std::vector<std::pair<Value, Value>> rest_named;
  for (const auto& argument : given.named) {
    const std::string& name = argument.first;
    const Value& value = argument.second;
    const bool known = std::any_of(node.named.begin(), node.named.end(), [&](const auto& p) { return p.first == name; });
    if (known) {
      inner->set(name, value);
    } else {
      rest_named.emplace_back(Value(Text(name)), value);
    }
  }
  for (const auto& [name, fallback] : node.named) {
    if (inner->find(name) == nullptr) inner->set(name, fallback ? eval(*fallback) : Value::undefined(cat("parameter '", name, "'")));
  }
  inner->set("varargs", make_list(std::move(rest), true));
  inner->set("kwargs", make_dict(std::move(rest_named)));
  if (macro.caller) inner->set("caller", *macro.caller);
  Text text;
  if (!failed()) text = captured(node.bodies[0]);
  scope_ = outer;
  if (macros == macros_defined_ && &scopes_.back() == inner) scopes_.pop_back();
  return failed() ? Value() : make_text(std::move(text));
}

void Interpreter::run_call_block(const Node& node) {
  const Node& call_node = *node.kids[0];
  const Value function = eval(*call_node.kids[0]);
  Arguments given = arguments(call_node, 1);
  if (failed()) return;
  if (!function.is(Type::kCallable) || function.callable().kind != Callable::Kind::kMacro) {
    fail("{% call %} expects a macro");
    return;
  }
  auto caller = std::make_shared<Callable>();
  caller->kind = Callable::Kind::kMacro;
  caller->name = "caller";
  caller->macro = &node;
  caller->scope = scope_;
  ++macros_defined_;
  Callable macro = function.callable();
  macro.caller = Value(std::move(caller));
  write(to_text(call_macro(macro, std::move(given))));
}

// {% set x | f %} chains end in a null input, which stands for the block's text.
Value Interpreter::apply_filter(const Node& node, Value input) {
  if (node.op != Op::kFilter) return fail("a filter is expected");
  if (node.kids[0] && (node.kids[0]->op == Op::kFilter)) {
    const Node* inner = node.kids[0].get();
    while (inner->kids[0] && inner->kids[0]->op == Op::kFilter) inner = inner->kids[0].get();
    if (!inner->kids[0]) input = apply_filter(*node.kids[0], std::move(input));
  }
  const Arguments given = arguments(node, 1);
  line_ = node.line;
  return failed() ? Value() : Builtins::filter(*this, node.name, input, given);
}

}  // namespace retort::jinja
