// What is inside a value: attributes, items, slices, the `loop` object, methods.
#include "io/jinja_interpreter.h"

#include <algorithm>

namespace retort::jinja {

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

Value Interpreter::bound_method(const Value& self, const std::string& name) {
  if (depth_of(self) >= kMaxValueDepth) return fail(cat("values nested more than ", kMaxValueDepth, " deep"));
  auto method = std::make_shared<Callable>();
  method->kind = Callable::Kind::kMethod;
  method->name = name;
  method->self = self;
  return Value(std::move(method));
}

}  // namespace retort::jinja
