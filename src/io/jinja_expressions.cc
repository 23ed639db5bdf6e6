// Names, literals, operators and comparisons.
#include "io/jinja_interpreter.h"

#include <algorithm>
#include <cmath>

namespace retort::jinja {

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

}  // namespace retort::jinja
