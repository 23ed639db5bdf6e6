#include "io/jinja_interpreter.h"

#include <algorithm>
#include <cmath>

#include "io/utf8.h"

namespace retort::jinja {
namespace {

constexpr int kMaxEvalDepth = 700;
constexpr size_t kMaxItems = 1 << 20;

}  // namespace

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

// ---- statements

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

void Interpreter::define_macro(const Node& node) {
  auto macro = std::make_shared<Callable>();
  macro->kind = Callable::Kind::kMacro;
  macro->name = node.name;
  macro->macro = &node;
  macro->scope = scope_;
  ++macros_defined_;
  scope_->set(node.name, Value(std::move(macro)));
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

// ---- expressions

Value Interpreter::eval(const Node& node) {
  if (failed()) return {};
  charge(0);
  if (++depth_ > kMaxEvalDepth) fail("recursion is too deep");
  Value out;
  if (!failed()) out = eval_now(node);
  --depth_;
  return failed() ? Value() : out;
}

Value Interpreter::eval_now(const Node& node) {
  switch (node.op) {
    case Op::kConst: return node.value;
    case Op::kName: return lookup(node.name);
    case Op::kList:
    case Op::kTuple: {
      std::vector<Value> items;
      for (const auto& kid : node.kids) items.push_back(eval(*kid));
      return make_list(std::move(items), node.op == Op::kTuple);
    }
    case Op::kDict: {
      std::vector<std::pair<Value, Value>> items;
      for (size_t i = 0; i < node.kids.size(); i += 2) {
        Value key = eval(*node.kids[i]);
        items.emplace_back(std::move(key), eval(*node.kids[i + 1]));
      }
      return make_dict(std::move(items));
    }
    case Op::kNegative:
    case Op::kPositive: {
      const Value v = eval(*node.kids[0]);
      if (!v.is_number()) return fail(cat("a ", type_name(v), " has no sign"));
      if (node.op == Op::kPositive) return v;
      return v.is_integer() ? Value(int64_t(0 - uint64_t(v.integer()))) : Value(-v.number());
    }
    case Op::kNot: return Value(!truthy(eval(*node.kids[0])));
    case Op::kAnd: {
      const Value a = eval(*node.kids[0]);
      return truthy(a) ? eval(*node.kids[1]) : a;
    }
    case Op::kOr: {
      const Value a = eval(*node.kids[0]);
      return truthy(a) ? a : eval(*node.kids[1]);
    }
    case Op::kConditional:
      if (truthy(eval(*node.kids[0]))) return eval(*node.kids[1]);
      return node.kids[2] ? eval(*node.kids[2]) : Value::undefined("the inline if without else");
    case Op::kCompare: return compare(node);
    case Op::kAttribute: return attribute(eval(*node.kids[0]), node.name);
    case Op::kItem: {
      const Value object = eval(*node.kids[0]);
      return item(object, eval(*node.kids[1]));
    }
    case Op::kSlice: return slice(node);
    case Op::kCall: {
      const Value function = eval(*node.kids[0]);
      return call(function, arguments(node, 1));
    }
    case Op::kFilter: return apply_filter(node, eval(*node.kids[0]));
    case Op::kTest: {
      const Value input = eval(*node.kids[0]);
      const Arguments given = arguments(node, 1);
      return failed() ? Value() : Value(Builtins::test(*this, node.name, input, given));
    }
    default: return binary(node);
  }
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

Value Interpreter::lookup(const std::string& name) {
  for (Scope* s = scope_; s != nullptr; s = s->parent) {
    charge(0);
    if (Value* v = s->find(name)) return *v;
  }
  if (!Builtins::is_global(name)) return Value::undefined(cat("'", name, "'"));
  auto function = std::make_shared<Callable>();
  function->name = name;
  return Value(std::move(function));
}

Value Interpreter::binary(const Node& node) {
  const Value a = eval(*node.kids[0]);
  const Value b = eval(*node.kids[1]);
  if (failed()) return {};
  line_ = node.line;
  if (node.op == Op::kConcat) {
    Text text = to_text(a);
    text.append(to_text(b));
    text.markup = false;  // unlike +, as autoescape is off
    return make_text(std::move(text));
  }
  if (a.is(Type::kUndefined) || b.is(Type::kUndefined)) {
    return fail(cat((a.is(Type::kUndefined) ? a : b).undefined_name(), " is undefined"));
  }
  return node.op == Op::kAdd ? add(a, b) : arithmetic(node.op, a, b);
}

Value Interpreter::add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    Text text = a.text();
    text.append_markup(b.text());
    return make_text(std::move(text));
  }
  if (a.is_sequence() && a.type() == b.type()) {
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return make_list(std::move(items), a.is(Type::kTuple));
  }
  return arithmetic(Op::kAdd, a, b);
}

Value Interpreter::repeat(const Value& sequence, int64_t times) {
  const size_t size = sequence.is_string() ? sequence.str().size() : sequence.list().items.size();
  const size_t limit = sequence.is_string() ? options_.max_output : kMaxItems;
  times = std::max<int64_t>(times, 0);
  if (size > 0 && uint64_t(times) > limit / size) return fail("a repetition that is too long");
  charge(size * size_t(times));
  if (failed() || size == 0) return sequence;
  if (sequence.is_string()) {
    Text text;
    for (int64_t i = 0; i < times; ++i) text.append(sequence.text());
    return make_text(std::move(text));
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < times; ++i) {
    items.insert(items.end(), sequence.list().items.begin(), sequence.list().items.end());
  }
  return make_list(std::move(items), sequence.is(Type::kTuple));
}

Value Interpreter::arithmetic(Op op, const Value& a, const Value& b) {
  if (op == Op::kMultiply && (a.is_string() || a.is_sequence()) && b.is_integer()) return repeat(a, b.integer());
  if (op == Op::kMultiply && (b.is_string() || b.is_sequence()) && a.is_integer()) return repeat(b, a.integer());
  if (op == Op::kModulo && a.is_string()) {
    return Builtins::filter(*this, "format", a, {b.is(Type::kTuple) ? b.list().items : std::vector<Value>{b}, {}});
  }
  if (!a.is_number() || !b.is_number()) {
    return fail(cat("no such operation between a ", type_name(a), " and a ", type_name(b)));
  }
  const bool whole = a.is_integer() && b.is_integer() && op != Op::kDivide && !(op == Op::kPower && b.integer() < 0);
  if ((op == Op::kDivide || op == Op::kFloorDivide || op == Op::kModulo) && b.number() == 0) return fail("division by zero");
  if (!whole) {
    const double x = a.number(), y = b.number();
    switch (op) {
      case Op::kAdd: return Value(x + y);
      case Op::kSubtract: return Value(x - y);
      case Op::kMultiply: return Value(x * y);
      case Op::kDivide: return Value(x / y);
      case Op::kFloorDivide: return Value(std::floor(x / y));
      case Op::kModulo: return Value(x - y * std::floor(x / y));
      default: return Value(std::pow(x, y));
    }
  }
  const int64_t x = a.integer(), y = b.integer();
  int64_t out = 0;
  bool overflow = false;
  switch (op) {
    case Op::kAdd: overflow = __builtin_add_overflow(x, y, &out); break;
    case Op::kSubtract: overflow = __builtin_sub_overflow(x, y, &out); break;
    case Op::kMultiply: overflow = __builtin_mul_overflow(x, y, &out); break;
    case Op::kFloorDivide:
    case Op::kModulo: {
      overflow = x == INT64_MIN && y == -1;
      if (overflow) break;
      const bool round_down = x % y != 0 && (x < 0) != (y < 0);
      out = op == Op::kFloorDivide ? x / y - round_down : x % y + (round_down ? y : 0);
      break;
    }
    default:
      out = 1;
      if (y > 64 && x != 0 && x != 1 && x != -1) overflow = true;
      for (int64_t i = 0; i < (y > 64 ? y % 2 + 2 : y) && !overflow; ++i) overflow = __builtin_mul_overflow(out, x, &out);
  }
  return overflow ? fail("an integer of more than 63 bits") : Value(out);
}

Value Interpreter::compare(const Node& node) {
  Value left = eval(*node.kids[0]);
  for (size_t i = 0; i < node.operators.size(); ++i) {
    const std::string& op = node.operators[i];
    const Value right = eval(*node.kids[i + 1]);
    if (failed()) return {};
    line_ = node.line;
    bool hit = false;
    if (op == "==" || op == "!=") {
      hit = equal(left, right) == (op == "==");
    } else if (op == "in" || op == "not in") {
      hit = contains(right, left) == (op == "in");
    } else {
      const auto o = order(left, right);
      if (!o) return fail(cat("a ", type_name(left), " and a ", type_name(right), " have no order"));
      hit = op == "<" ? *o < 0 : op == "<=" ? *o <= 0 : op == ">" ? *o > 0 : *o >= 0;
    }
    if (!hit) return Value(false);
    left = right;
  }
  return Value(true);
}

bool Interpreter::contains(const Value& container, const Value& value) {
  if (container.is_string()) {
    charge(container.str().size());
    if (!value.is_string()) {
      fail(cat("'in <string>' requires a string, not a ", type_name(value)));
      return false;
    }
    return container.str().find(value.str()) != std::string::npos;
  }
  if (container.is_dict()) {
    charge(container.dict().items.size());
    return container.dict().find(value) != nullptr;
  }
  if (container.is_sequence()) {
    charge(container.list().items.size());
    const auto& items = container.list().items;
    return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, value); });
  }
  if (!container.is(Type::kUndefined)) fail(cat("a ", type_name(container), " contains nothing"));
  return false;
}

Value Interpreter::bound_method(const Value& self, const std::string& name) {
  if (depth_of(self) >= kMaxValueDepth) return fail(cat("values nested more than ", kMaxValueDepth, " deep"));
  auto method = std::make_shared<Callable>();
  method->kind = Callable::Kind::kMethod;
  method->name = name;
  method->self = self;
  return Value(std::move(method));
}

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (failed()) return {};
  if (object.is(Type::kUndefined)) return fail(cat(object.undefined_name(), " is undefined (wanted its '", name, "')"));
  if (object.is(Type::kLoop)) return loop_attribute(object, name);
  if (object.is(Type::kNamespace)) {
    const Value* v = object.dict().find(std::string_view(name));
    return v ? *v : Value::undefined(cat("attribute '", name, "'"));
  }
  if (object.is(Type::kCallable) && object.callable().kind == Callable::Kind::kCycler && name == "current") {
    const auto& items = object.callable().self.list().items;
    return items.empty() ? Value() : items[object.callable().position % items.size()];
  }
  if (object.is(Type::kCallable) && name == "name") return Value(Text(object.callable().name));
  if (Builtins::is_method(object, name) || (object.is(Type::kCallable) && (name == "next" || name == "reset"))) {
    return bound_method(object, name);
  }
  if (object.is(Type::kDict)) {
    charge(object.dict().items.size());
    if (const Value* v = object.dict().find(std::string_view(name))) return *v;
  }
  return Value::undefined(cat("'", type_name(object), "' has no attribute '", name, "': it"));
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (failed()) return {};
  if (object.is(Type::kUndefined)) return fail(cat(object.undefined_name(), " is undefined (wanted an item of it)"));
  if (object.is(Type::kDict)) {
    charge(object.dict().items.size());
    if (const Value* v = object.dict().find(key)) return *v;
  } else if (object.is_sequence() && key.is_integer()) {
    const auto& items = object.list().items;
    const int64_t i = key.integer() < 0 ? key.integer() + int64_t(items.size()) : key.integer();
    return i >= 0 && i < int64_t(items.size()) ? items[size_t(i)] : Value::undefined("a list item out of range");
  } else if (object.is_string() && key.is_integer()) {
    std::vector<Value> characters;
    if (!items_of(object, characters)) return {};
    const int64_t i = key.integer() < 0 ? key.integer() + int64_t(characters.size()) : key.integer();
    return i >= 0 && i < int64_t(characters.size()) ? characters[size_t(i)] : Value::undefined("a character out of range");
  }
  if (key.is_string()) return attribute(object, key.str());
  return Value::undefined(cat("an item of a ", type_name(object)));
}

Value Interpreter::loop_attribute(const Value& value, const std::string& name) {
  const Loop& loop = value.loop();
  const auto n = int64_t(loop.items.size()), i = int64_t(loop.index);
  if (name == "index") return Value(i + 1);
  if (name == "index0") return Value(i);
  if (name == "revindex") return Value(n - i);
  if (name == "revindex0") return Value(n - i - 1);
  if (name == "first") return Value(i == 0);
  if (name == "last") return Value(i + 1 == n);
  if (name == "length") return Value(n);
  if (name == "depth" || name == "depth0") return Value(int64_t(name == "depth"));  // of recursive loops only
  if (name == "previtem") return i > 0 ? loop.items[size_t(i - 1)] : Value::undefined("there is no previous item: loop.previtem");
  if (name == "nextitem") return i + 1 < n ? loop.items[size_t(i + 1)] : Value::undefined("there is no next item: loop.nextitem");
  if (name == "cycle" || name == "changed") {
    return bound_method(value, name);
  }
  return Value::undefined(cat("'loop.", name, "'"));
}

Value Interpreter::slice(const Node& node) {
  const Value object = eval(*node.kids[0]);
  int64_t part[3] = {0, 0, 1};
  bool given[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    if (!node.kids[i + 1]) continue;
    const Value v = eval(*node.kids[i + 1]);
    if (failed()) return {};
    if (v.is(Type::kNone)) continue;
    if (!v.is_integer()) return fail("slice bounds must be integers");
    part[i] = v.integer();
    given[i] = true;
  }
  if (!object.is_string() && !object.is_sequence()) {
    return object.is(Type::kUndefined) ? fail(cat(object.undefined_name(), " is undefined (wanted a slice of it)"))
                                       : fail(cat("a ", type_name(object), " has no slices"));
  }
  std::vector<Value> items;
  if (!items_of(object, items)) return {};
  const int64_t n = int64_t(items.size()), step = part[2];
  if (step == 0) return fail("a slice step of zero");
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const auto bound = [&](int64_t v) { return std::clamp(v < 0 ? v + n : v, low, high); };
  const int64_t first = given[0] ? bound(part[0]) : step > 0 ? 0 : n - 1;
  const int64_t last = given[1] ? bound(part[1]) : step > 0 ? n : -1;
  std::vector<Value> out;
  const uint64_t stride = step > 0 ? uint64_t(step) : 0 - uint64_t(step);
  const int64_t span = step > 0 ? last - first : first - last;
  for (uint64_t k = 0; span > 0 && k < uint64_t(span); k += stride) {
    out.push_back(items[size_t(step > 0 ? first + int64_t(k) : first - int64_t(k))]);
    if (stride > uint64_t(span)) break;
  }
  if (!object.is_string()) return make_list(std::move(out), object.is(Type::kTuple));
  Text text;
  for (const Value& v : out) text.append(v.text());
  return make_text(std::move(text));
}

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
