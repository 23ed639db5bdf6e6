#include <algorithm>
#include <ctime>

#include "io/jinja_interpreter.h"
#include "io/jinja_strings.h"
#include "io/unicode.h"
#include "io/utf8.h"

namespace retort::jinja {
namespace {

bool one_of(const std::string& name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Every character passes and there is one.
template <class Test>
bool all_characters(const std::string& s, Test test) {
  for (size_t pos = 0; pos < s.size();) {
    if (!test(utf8::next(s, pos))) return false;
  }
  return !s.empty();
}

bool is_upper_case(char32_t c) { return unicode::category(c) == unicode::kLu; }
bool is_lower_case(char32_t c) { return unicode::category(c) == unicode::kLl; }

bool cased(const std::string& s, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  bool any = false;
  for (size_t pos = 0; pos < s.size();) {
    const char32_t c = utf8::next(s, pos);
    if (other(c)) return false;
    any = any || wanted(c);
  }
  return any;
}

}  // namespace

bool Builtins::is_method(const Value& self, const std::string& name) {
  if (self.is_string()) {
    return one_of(name, {"strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "replace", "upper",
                         "lower", "title", "capitalize", "find", "rfind", "index", "count", "join", "format", "isdigit",
                         "isnumeric", "isalpha", "isalnum", "isspace", "isupper", "islower", "removeprefix", "removesuffix"});
  }
  if (self.is(Type::kDict)) {
    return one_of(name, {"get", "items", "keys", "values", "copy", "update", "pop", "popitem", "clear", "setdefault"});
  }
  if (self.is_sequence()) {
    return one_of(name, {"index", "count", "copy", "append", "extend", "insert", "pop", "remove", "reverse", "sort", "clear"});
  }
  return false;
}

Value Builtins::method(Interpreter& in, const Value& self, const std::string& name, const Arguments& a) {
  if (self.is_string()) return string_method(in, self.text(), name, a);
  if (self.is(Type::kLoop)) {
    if (name == "cycle") {
      if (a.positional.empty()) return in.fail("loop.cycle: at least one value is expected");
      return a.positional[self.loop().index % a.positional.size()];
    }
    std::string seen;
    for (const Value& v : a.positional) seen += repr(v) + ",";
    in.charge(seen.size());
    const bool changed = self.loop().changed != seen;
    self.loop().changed = std::move(seen);
    return Value(changed);
  }
  if (self.is(Type::kCallable)) {
    Callable& cycler = self.callable();
    if (cycler.kind != Callable::Kind::kCycler) return in.fail(cat("a function has no '", name, "'"));
    if (name == "reset") return cycler.position = 0, Value::none();
    const auto& items = cycler.self.list().items;
    return items[cycler.position++ % items.size()];
  }
  if (self.is_sequence()) {
    const auto& items = self.list().items;
    if (name == "copy") return self;
    if ((name == "index" || name == "count") && a.positional.size() == 1) {
      in.charge(items.size());
      if (name == "count") {
        return Value(int64_t(std::count_if(items.begin(), items.end(), [&](const Value& v) { return equal(v, a.positional[0]); })));
      }
      const auto hit = std::find_if(items.begin(), items.end(), [&](const Value& v) { return equal(v, a.positional[0]); });
      return hit == items.end() ? in.fail("index: the value is not in the list") : Value(int64_t(hit - items.begin()));
    }
    return in.fail(cat("list.", name, ": templates cannot change a list"));
  }
  if (!self.is(Type::kDict)) return in.fail(cat("a ", type_name(self), " has no method '", name, "'"));
  const Dict& dict = self.dict();
  in.charge(dict.items.size());
  if (name == "get") {
    const Value* key = a.get(0, "key");
    const Value* fallback = a.get(1, "default");
    const Value* v = key ? dict.find(*key) : nullptr;
    return v ? *v : fallback ? *fallback : Value::none();
  }
  if (name == "copy") return self;
  std::vector<Value> out;
  for (const auto& [key, value] : dict.items) {
    if (name == "items") {
      out.push_back(in.make_list({key, value}, true));
    } else if (name == "keys" || name == "values") {
      out.push_back(name == "keys" ? key : value);
    } else {
      return in.fail(cat("dict.", name, ": templates cannot change a dict"));
    }
  }
  return in.make_list(std::move(out));
}

Value Builtins::split(Interpreter& in, const Text& self, const Arguments& a, bool from_right) {
  const Value* separator = a.get(0, "sep");
  const Value* limit = a.get(1, "maxsplit");
  const bool spaces = !separator || separator->is(Type::kNone);
  if (!spaces && (!separator->is_string() || separator->str().empty())) return in.fail("split: a separator that is not empty is expected");
  in.charge(self.s.size() * 4);
  if (in.failed()) return {};
  std::vector<Value> out;
  for (Text& part : jinja::split(self, spaces ? "" : separator->str(), limit && limit->is_integer() ? limit->integer() : -1, from_right)) {
    out.push_back(Value(std::move(part)));
  }
  return in.make_list(std::move(out));
}

Value Builtins::string_method(Interpreter& in, const Text& self, const std::string& name, const Arguments& a) {
  const std::string& s = self.s;
  in.charge(s.size());
  const auto text_argument = [&](size_t i) -> const Text* {
    return i < a.positional.size() && a.positional[i].is_string() ? &a.positional[i].text() : nullptr;
  };
  if (one_of(name, {"strip", "lstrip", "rstrip"})) {
    const Text* chars = text_argument(0);
    return in.make_text(strip(self, chars ? &chars->s : nullptr, name != "rstrip", name != "lstrip"));
  }
  if (name == "split" || name == "rsplit") return split(in, self, a, name == "rsplit");
  if (name == "splitlines") {
    const Value* keep = a.get(0, "keepends");
    std::vector<Value> out;
    for (Text& line : split_lines(self, keep && truthy(*keep))) out.push_back(Value(std::move(line)));
    return in.make_list(std::move(out));
  }
  if (name == "upper") return in.make_text(upper(self));
  if (name == "lower") return in.make_text(lower(self));
  if (name == "capitalize") return in.make_text(capitalize(self));
  if (name == "title") return in.make_text(title(self));
  if (name == "isdigit" || name == "isnumeric") return Value(all_characters(s, unicode::is_number));
  if (name == "isalpha") return Value(all_characters(s, unicode::is_letter));
  if (name == "isalnum") return Value(all_characters(s, [](char32_t c) { return unicode::is_letter(c) || unicode::is_number(c); }));
  if (name == "isspace") return Value(all_characters(s, is_python_space));
  if (name == "isupper") return Value(cased(s, is_upper_case, is_lower_case));
  if (name == "islower") return Value(cased(s, is_lower_case, is_upper_case));
  if (name == "format") return format(in, self, a);
  if (name == "join") {
    std::vector<Value> items;
    if (a.positional.size() != 1 || !in.items_of(a.positional[0], items)) return in.fail("join: one list is expected");
    for (const Value& v : items) {
      if (!v.is_string()) return in.fail(cat("join: strings are expected, not a ", type_name(v)));
    }
    return join(in, items, {{Value(self)}, {}});
  }
  if (name == "startswith" || name == "endswith") {
    std::vector<Value> options;
    if (a.positional.empty()) return in.fail(cat(name, ": a string is expected"));
    if (a.positional[0].is(Type::kTuple)) options = a.positional[0].list().items;
    else options.push_back(a.positional[0]);
    for (const Value& option : options) {
      if (!option.is_string()) return in.fail(cat(name, ": a string is expected, not a ", type_name(option)));
      const std::string& o = option.str();
      if (o.size() <= s.size() && s.compare(name == "startswith" ? 0 : s.size() - o.size(), o.size(), o) == 0) return Value(true);
    }
    return Value(false);
  }
  if (name == "replace") {
    const Value *from = a.get(0, "old"), *to = a.get(1, "new"), *count = a.get(2, "count");
    if (!from || !to || !from->is_string() || !to->is_string()) return in.fail("replace: two strings are expected");
    return in.make_text(replace(self, from->str(), to->text(), count && count->is_integer() ? count->integer() : -1, in.options_.max_output));
  }
  const Text* part = text_argument(0);
  if (!part) return in.fail(cat("str.", name, ": a string is expected"));
  if (name == "removeprefix") return Value(s.compare(0, part->s.size(), part->s) == 0 ? self.substr(part->s.size()) : self);
  if (name == "removesuffix") {
    const bool has = part->s.size() <= s.size() && s.compare(s.size() - part->s.size(), part->s.size(), part->s) == 0;
    return Value(has ? self.substr(0, s.size() - part->s.size()) : self);
  }
  if (name == "count") {
    if (part->s.empty()) return Value(int64_t(utf8::count(s) + 1));
    int64_t n = 0;
    for (size_t pos = 0; (pos = s.find(part->s, pos)) != std::string::npos; pos += part->s.size()) ++n;
    return Value(n);
  }
  const size_t hit = name == "rfind" ? s.rfind(part->s) : s.find(part->s);
  if (hit == std::string::npos && name == "index") return in.fail("index: the text is not in the string");
  return Value(hit == std::string::npos ? int64_t(-1) : int64_t(utf8::count(std::string_view(s).substr(0, hit))));
}

// "{}", "{0}" and "{name}", without format specifications.
Value Builtins::format(Interpreter& in, const Text& pattern, const Arguments& a) {
  Text out;
  size_t used = 0;
  for (size_t i = 0; i < pattern.s.size(); ++i) {
    const char c = pattern.s[i];
    if ((c == '{' || c == '}') && i + 1 < pattern.s.size() && pattern.s[i + 1] == c) {
      out.append(pattern.substr(i++, 1));
      continue;
    }
    if (c != '{') {
      if (c == '}') return in.fail("str.format: a single '}'");
      out.append(pattern.substr(i, 1));
      continue;
    }
    const size_t close = pattern.s.find('}', i);
    if (close == std::string::npos) return in.fail("str.format: a single '{'");
    const std::string field = pattern.s.substr(i + 1, close - i - 1);
    const bool number = std::all_of(field.begin(), field.end(), [](char d) { return d >= '0' && d <= '9'; });
    const Value* v = nullptr;
    if (number && field.size() < 6) {
      const size_t at = field.empty() ? used++ : size_t(std::stoi(field));
      if (at < a.positional.size()) v = &a.positional[at];
    } else {
      v = a.get(size_t(-1), field);
    }
    if (!v) return in.fail(cat("str.format: no value for {", field, "}"));
    out.append(to_text(*v));
    if (out.s.size() > in.options_.max_output) return in.fail("str.format: the string is too long");
    i = close;
  }
  return in.make_text(std::move(out));
}

bool Builtins::is_global(const std::string& name) {
  return one_of(name, {"range", "dict", "namespace", "joiner", "cycler", "raise_exception", "strftime_now"});
}

Value Builtins::global(Interpreter& in, const std::string& name, const Arguments& a) {
  if (name == "raise_exception") {
    return in.fail(cat("the template refuses: ", a.positional.empty() ? "" : to_text(a.positional[0]).s));
  }
  if (name == "range") {
    int64_t bound[3] = {0, 0, 1};
    const size_t n = a.positional.size();
    if (n < 1 || n > 3) return in.fail("range: 1 to 3 integers are expected");
    for (size_t i = 0; i < n; ++i) {
      if (!a.positional[i].is_integer()) return in.fail("range: integers are expected");
      bound[n == 1 ? 1 : i] = a.positional[i].integer();
    }
    if (bound[2] == 0) return in.fail("range: a step of zero");
    const bool up = bound[2] > 0;
    if (up ? bound[0] >= bound[1] : bound[0] <= bound[1]) return in.make_list({});
    const uint64_t span = up ? uint64_t(bound[1]) - uint64_t(bound[0]) : uint64_t(bound[0]) - uint64_t(bound[1]);
    const uint64_t step = up ? uint64_t(bound[2]) : 0 - uint64_t(bound[2]);
    const uint64_t count = (span - 1) / step + 1;
    if (count > 100'000) return in.fail("range: more than 100000 items");
    std::vector<Value> out;
    for (uint64_t i = 0; i < count; ++i) out.push_back(Value(int64_t(uint64_t(bound[0]) + i * uint64_t(bound[2]))));
    return in.make_list(std::move(out));
  }
  if (name == "dict" || name == "namespace") {
    std::vector<std::pair<Value, Value>> items;
    if (!a.positional.empty() && a.positional[0].is(Type::kDict)) items = a.positional[0].dict().items;
    for (const auto& [key, value] : a.named) items.emplace_back(Value(Text(key)), value);
    const Value made = in.make_dict(std::move(items));
    if (name == "dict" || in.failed()) return made;
    in.namespaces_.push_back(made.dict_pointer());
    return Value(made.dict_pointer(), true);
  }
  if (name == "strftime_now") {
    const Value* format = a.get(0, "format");
    if (!format || !format->is_string() || format->str().size() > 200) return in.fail("strftime_now: a format is expected");
    std::tm now{};
    if (in.options_.now) {
      now = *in.options_.now;
    } else {
      const std::time_t seconds = std::time(nullptr);
      localtime_r(&seconds, &now);
    }
    char buffer[4096];
    return in.make_text(Text(std::string(buffer, std::strftime(buffer, sizeof buffer, format->str().c_str(), &now))));
  }
  auto callable = std::make_shared<Callable>();
  callable->name = name;
  if (name == "joiner") {
    callable->kind = Callable::Kind::kJoiner;
    callable->self = a.positional.empty() ? Value(", ") : a.positional[0];
  } else {
    if (a.positional.empty()) return in.fail("cycler: at least one value is expected");
    callable->kind = Callable::Kind::kCycler;
    callable->self = in.make_list(a.positional);
    if (in.failed()) return {};
  }
  return Value(std::move(callable));
}

bool Builtins::test(Interpreter& in, const std::string& name, const Value& v, const Arguments& a) {
  const Value* other = a.get(0, "other");
  const auto need = [&]() -> bool {
    if (!other) in.fail(cat("test '", name, "': a value is expected"));
    return other != nullptr;
  };
  if (name == "defined") return !v.is(Type::kUndefined);
  if (name == "undefined") return v.is(Type::kUndefined);
  if (name == "none") return v.is(Type::kNone);
  if (name == "string") return v.is_string();
  if (name == "number") return v.is_number();
  if (name == "integer") return v.is(Type::kInt);
  if (name == "float") return v.is(Type::kFloat);
  if (name == "boolean") return v.is(Type::kBool);
  if (name == "true") return v.is(Type::kBool) && v.boolean();
  if (name == "false") return v.is(Type::kBool) && !v.boolean();
  if (name == "mapping") return v.is(Type::kDict);
  if (name == "sequence") return v.is_string() || v.is_sequence() || v.is(Type::kDict) || v.is(Type::kUndefined);
  if (name == "iterable") return v.is_string() || v.is_sequence() || v.is(Type::kDict) || v.is(Type::kUndefined) || v.is(Type::kLoop);
  if (name == "callable") return v.is(Type::kCallable);
  if (name == "lower" || name == "upper") {
    const std::string s = to_text(v).s;
    return name == "lower" ? cased(s, is_lower_case, is_upper_case) : cased(s, is_upper_case, is_lower_case);
  }
  if (name == "odd" || name == "even" || name == "divisibleby") {
    const int64_t by = name == "divisibleby" ? (other && other->is_integer() ? other->integer() : 0) : 2;
    if (!v.is_integer() || by == 0) return in.fail(cat("test '", name, "': integers are expected")), false;
    const bool divides = by == -1 || v.integer() % by == 0;
    return divides != (name == "odd");
  }
  if (one_of(name, {"sameas", "eq", "equalto", "==", "ne", "!=", "in", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">="})) {
    if (!need()) return false;
    if (name == "sameas") return v.is_number() || v.is(Type::kNone) ? v.type() == other->type() && equal(v, *other) : v.same_object(*other);
    if (one_of(name, {"eq", "equalto", "=="})) return equal(v, *other);
    if (one_of(name, {"ne", "!="})) return !equal(v, *other);
    if (name == "in") return in.contains(*other, v);
    const auto o = order(v, *other);
    if (!o) return in.fail(cat("a ", type_name(v), " and a ", type_name(*other), " have no order")), false;
    if (one_of(name, {"lt", "lessthan", "<"})) return *o < 0;
    if (one_of(name, {"le", "<="})) return *o <= 0;
    return one_of(name, {"ge", ">="}) ? *o >= 0 : *o > 0;
  }
  in.fail(cat("test '", name, "' is not supported"));
  return false;
}

}  // namespace retort::jinja
