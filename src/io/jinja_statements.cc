// {% if %}, {% for %}, {% set %}, {% with %}: what runs, in which scope, and where values are put.
#include "io/jinja_interpreter.h"

#include <algorithm>

namespace retort::jinja {

Interpreter::Flow Interpreter::run(const std::vector<NodePtr>& nodes) {
  for (const auto& node : nodes) {
    const Flow flow = run(*node);
    if (failed() || flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Node& node) {
  line_ = node.line;
  charge(0);
  if (++depth_ > kMaxEvalDepth) fail("recursion is too deep");
  Flow flow = Flow::kNext;
  if (!failed()) {
    switch (node.op) {
      case Op::kText: write(node.value.text()); break;
      case Op::kOutput: write(to_text(eval(*node.kids[0]))); break;
      case Op::kIf: flow = run_if(node); break;
      case Op::kFor: flow = run_for(node); break;
      case Op::kSet:
      case Op::kSetBlock: run_set(node); break;
      case Op::kMacro: define_macro(node); break;
      case Op::kCallBlock: run_call_block(node); break;
      case Op::kFilterBlock: {
        Text text = captured(node.bodies[0]);
        write(to_text(apply_filter(*node.kids[0], make_text(std::move(text)))));
        break;
      }
      case Op::kWith:
      case Op::kGroup: flow = run_scoped(node); break;
      case Op::kBreak: flow = Flow::kBreak; break;
      case Op::kContinue: flow = Flow::kContinue; break;
      default: fail("an expression where a statement belongs");
    }
  }
  --depth_;
  return flow;
}

Interpreter::Flow Interpreter::run_if(const Node& node) {
  for (size_t i = 0; i < node.kids.size(); ++i) {
    const bool hit = truthy(eval(*node.kids[i]));
    if (failed()) return Flow::kNext;
    if (hit) return run(node.bodies[i]);
  }
  return node.bodies.size() > node.kids.size() ? run(node.bodies.back()) : Flow::kNext;
}

Interpreter::Flow Interpreter::run_for(const Node& node) {
  std::vector<Value> items;
  if (!items_of(eval(*node.kids[1]), items)) return Flow::kNext;
  auto loop = std::make_shared<Loop>();
  if (node.kids[2]) {
    Scope scope{scope_, {}};
    scope_ = &scope;
    for (Value& v : items) {
      assign(*node.kids[0], v);
      if (!failed() && truthy(eval(*node.kids[2]))) loop->items.push_back(v);
      if (failed()) break;
    }
    scope_ = scope.parent;
  } else {
    loop->items = std::move(items);
  }
  for (const Value& v : loop->items) loop->depth = std::max(loop->depth, 1 + depth_of(v));
  if (loop->depth > kMaxValueDepth) fail(cat("values nested more than ", kMaxValueDepth, " deep"));
  if (failed()) return Flow::kNext;
  if (loop->items.empty()) return node.bodies.size() > 1 ? run(node.bodies[1]) : Flow::kNext;
  return loop_over(node, loop);
}

Interpreter::Flow Interpreter::loop_over(const Node& node, const std::shared_ptr<Loop>& loop) {
  Scope* const outer = scope_;
  for (; loop->index < loop->items.size() && !failed(); ++loop->index) {
    const size_t macros = macros_defined_;
    scopes_.push_back({outer, {}});
    scope_ = &scopes_.back();
    scope_->set("loop", Value(loop));
    assign(*node.kids[0], loop->items[loop->index]);
    const Flow flow = failed() ? Flow::kNext : run(node.bodies[0]);
    scope_ = outer;
    if (macros == macros_defined_) scopes_.pop_back();  // else a macro still refers to it
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

// A scope of its own, and for {% with %} its variables.
Interpreter::Flow Interpreter::run_scoped(const Node& node) {
  Scope* const outer = scope_;
  const size_t macros = macros_defined_;
  std::vector<std::pair<std::string, Value>> variables;
  for (const auto& [name, value] : node.named) variables.emplace_back(name, eval(*value));
  Flow flow = Flow::kNext;
  scopes_.push_back({outer, std::move(variables)});
  scope_ = &scopes_.back();
  if (!failed()) flow = run(node.bodies[0]);
  scope_ = outer;
  if (macros == macros_defined_) scopes_.pop_back();
  return flow;
}

void Interpreter::run_set(const Node& node) {
  Value value;
  if (node.op == Op::kSet) {
    value = eval(*node.kids[1]);
  } else {
    value = make_text(captured(node.bodies[0]));
    if (node.kids[1]) value = apply_filter(*node.kids[1], value);
  }
  if (!failed()) assign(*node.kids[0], value);
}

void Interpreter::assign(const Node& target, const Value& value) {
  if (target.op == Op::kName) {
    scope_->set(target.name, value);
    return;
  }
  if (target.op == Op::kTuple) {
    std::vector<Value> items;
    if (!items_of(value, items)) return;
    if (items.size() != target.kids.size()) {
      fail(cat(items.size(), " values for ", target.kids.size(), " names"));
      return;
    }
    for (size_t i = 0; i < items.size(); ++i) assign(*target.kids[i], items[i]);
    return;
  }
  const Value object = lookup(target.kids[0]->name);
  if (!object.is(Type::kNamespace)) {
    fail(cat("cannot set an attribute of ", target.kids[0]->name, ": it is no namespace"));
    return;
  }
  charge(object.dict().items.size());
  object.dict().set(Value(Text(target.name)), value);
  if (object.dict().depth > kMaxValueDepth) fail(cat("values nested more than ", kMaxValueDepth, " deep"));
}

}  // namespace retort::jinja
