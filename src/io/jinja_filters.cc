#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/jinja_interpreter.h"
#include "io/jinja_strings.h"
#include "io/unicode.h"
#include "io/utf8.h"

namespace retort::jinja {
namespace {

bool flag(const Arguments& a, size_t index, std::string_view name, bool fallback) {
  const Value* v = a.get(index, name);
  return v ? truthy(*v) : fallback;
}

}  // namespace

// "a.b.0" as map(attribute=..) and sort(attribute=..) read it.
Value Builtins::by_path(Interpreter& in, Value value, const Value& path) {
  if (path.is_integer()) return in.item(value, path);
  std::string_view rest = path.is_string() ? std::string_view(path.str()) : std::string_view();
  while (!rest.empty() && !in.failed()) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string part(rest.substr(0, dot));
    const bool number = !part.empty() && part.size() < 10 && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    value = in.item(value, number ? Value(int64_t(std::stoi(part))) : Value(Text(part)));
    rest.remove_prefix(std::min(dot + 1, rest.size()));
  }
  return value;
}

Value Builtins::filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a) {
  if (name == "tojson") return tojson(in, input, a);
  if (name == "default" || name == "d") {
    const bool use = input.is(Type::kUndefined) || (flag(a, 1, "boolean", false) && !truthy(input));
    const Value* fallback = a.get(0, "default_value");
    return !use ? input : fallback ? *fallback : Value("");
  }
  if (name == "string") return in.make_text(to_text(input));
  if (name == "safe") {
    Text text = to_text(input);
    text.markup = true;
    return in.make_text(std::move(text));
  }
  if (name == "attr") {
    const Value* attribute = a.get(0, "name");
    if (!attribute || !attribute->is_string()) return in.fail("attr: a name is expected");
    // Attributes only: the keys of a dict are none.
    const bool has = !input.is(Type::kDict) || is_method(input, attribute->str());
    return has ? in.attribute(input, attribute->str()) : Value::undefined("an attribute");
  }
  bool known = true;
  Value out = list_filter(in, name, input, a, known);
  if (!known) out = number_filter(in, name, input, a, known = true);
  if (!known) out = text_filter(in, name, input, a, known = true);
  return known ? out : in.fail(cat("filter '", name, "' is not supported"));
}

Value Builtins::tojson(Interpreter& in, const Value& input, const Arguments& a) {
  JsonStyle style;
  style.ascii = flag(a, 0, "ensure_ascii", false);
  const Value* indent = a.get(1, "indent");
  if (a.get(0, "ensure_ascii") && !a.positional.empty() && a.positional[0].is(Type::kInt)) {
    indent = &a.positional[0];  // plain Jinja's tojson(indent)
    style.ascii = false;
  }
  if (indent && indent->is_integer()) {
    if (indent->integer() < 0 || indent->integer() > 64) return in.fail("tojson: an indent from 0 to 64 is expected");
    style.indent = std::string(size_t(indent->integer()), ' ');
    style.item = ",";
    if (style.indent.empty()) return in.fail("tojson: an indent of 0 is not supported");
  } else if (indent && indent->is_string()) {
    style.indent = indent->str();
    style.item = ",";
  }
  if (const Value* separators = a.get(2, "separators"); separators && separators->is_sequence()) {
    const auto& parts = separators->list().items;
    if (parts.size() != 2 || !parts[0].is_string() || !parts[1].is_string()) return in.fail("tojson: two separators are expected");
    style.item = parts[0].str();
    style.key = parts[1].str();
  }
  style.sort_keys = flag(a, 3, "sort_keys", false);
  std::string out;
  if (!to_json(input, style, out)) return in.fail(cat("tojson: a ", type_name(input), " in it has no JSON form"));
  return in.make_text(Text(std::move(out), tainted(input)));
}

Value Builtins::list_filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a, bool& known) {
  const auto is = [&](std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  std::vector<Value> items;
  if (is({"length", "count"})) {
    if (input.is_string()) return Value(int64_t(utf8::count(input.str())));
    if (input.is_sequence()) return Value(int64_t(input.list().items.size()));
    if (input.is(Type::kDict)) return Value(int64_t(input.dict().items.size()));
    return input.is(Type::kUndefined) ? Value(int64_t(0)) : in.fail(cat("a ", type_name(input), " has no length"));
  }
  if (is({"items", "dictsort"})) {
    if (input.is(Type::kUndefined)) return in.make_list({});
    if (!input.is(Type::kDict)) return in.fail(cat(name, ": a dict is expected, not a ", type_name(input)));
    for (const auto& [key, value] : input.dict().items) items.push_back(in.make_list({key, value}, true));
    return name == "items" || in.failed() ? in.make_list(std::move(items)) : sort(in, std::move(items), a, true);
  }
  if (!is({"list", "first", "last", "reverse", "join", "select", "reject", "selectattr", "rejectattr", "map", "sort", "unique",
           "sum", "min", "max", "batch", "groupby"})) {
    known = false;
    return {};
  }
  if (name == "reverse" && input.is_string()) {
    in.items_of(input, items);
    std::reverse(items.begin(), items.end());
    Text text;
    for (const Value& v : items) text.append(v.text());
    return in.make_text(std::move(text));
  }
  const bool lazy = is({"select", "reject", "selectattr", "rejectattr", "map"});
  if (lazy && !truthy(input)) return in.make_list({});  // Jinja does not look at what is false
  if (!in.items_of(input, items)) return {};
  if (name == "list") return in.make_list(std::move(items));
  if (name == "first") return items.empty() ? Value::undefined("the first item of nothing") : items.front();
  if (name == "last") return items.empty() ? Value::undefined("the last item of nothing") : items.back();
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    return in.make_list(std::move(items));
  }
  if (name == "join") return join(in, items, a);
  if (name == "map") return map(in, items, a);
  if (name == "sort") return sort(in, std::move(items), a, false);
  if (is({"select", "reject", "selectattr", "rejectattr"})) return select(in, name, items, a);
  if (name == "unique") {
    std::vector<Value> out;
    for (const Value& v : items) {
      in.charge(out.size() * 8);
      if (in.failed()) return {};
      const Value key = v.is_string() ? Value(Text(unicode::lowercase(v.str()))) : v;
      const bool seen = std::any_of(out.begin(), out.end(), [&](const Value& o) {
        return equal(o.is_string() ? Value(Text(unicode::lowercase(o.str()))) : o, key);
      });
      if (!seen) out.push_back(v);
    }
    return in.make_list(std::move(out));
  }
  if (name == "sum") {
    Value total = Value(int64_t(0));
    if (const Value* start = a.get(1, "start")) total = *start;
    const Value* attribute = a.get(0, "attribute");
    for (const Value& v : items) total = in.add(total, attribute ? by_path(in, v, *attribute) : v);
    return total;
  }
  if (is({"min", "max"})) {
    if (items.empty()) return Value::undefined(cat("the ", name, " of nothing"));
    Value best = items[0];
    for (const Value& v : items) {
      const auto o = order(v, best);
      if (!o) return in.fail(cat(name, ": a ", type_name(v), " and a ", type_name(best), " have no order"));
      if (name == "min" ? *o < 0 : *o > 0) best = v;
    }
    return best;
  }
  return name == "batch" ? batch(in, items, a) : groupby(in, items, a);
}

Value Builtins::batch(Interpreter& in, const std::vector<Value>& items, const Arguments& a) {
  const Value *size = a.get(0, "linecount"), *fill = a.get(1, "fill_with");
  if (!size || !size->is_integer() || size->integer() < 1) return in.fail("batch: a size of at least 1 is expected");
  const auto n = size_t(size->integer());
  std::vector<Value> out;
  for (size_t i = 0; i < items.size(); i += std::min(n, items.size() - i)) {
    std::vector<Value> part(items.begin() + long(i), items.begin() + long(i + std::min(n, items.size() - i)));
    if (fill && n <= 100'000) part.resize(n, *fill);
    out.push_back(in.make_list(std::move(part)));
  }
  return in.make_list(std::move(out));
}

Value Builtins::groupby(Interpreter& in, const std::vector<Value>& items, const Arguments& a) {
  const Value* attribute = a.get(0, "attribute");
  if (!attribute) return in.fail("groupby: an attribute is expected");
  const Value sorted = sort(in, items, {{Value(false), Value(false), *attribute}, {}}, false);
  if (in.failed()) return {};
  std::vector<Value> out, group;
  Value key;
  const auto finish = [&] {
    if (!group.empty()) out.push_back(in.make_list({key, in.make_list(std::exchange(group, {}))}, true));
  };
  for (const Value& v : sorted.list().items) {
    const Value k = by_path(in, v, *attribute);
    const bool same = equal(k, key) || (k.is_string() && key.is_string() && lower(k.text()).s == lower(key.text()).s);
    if (!same || group.empty()) {
      finish();
      key = k;
    }
    group.push_back(v);
  }
  finish();
  return in.make_list(std::move(out));
}

Value Builtins::join(Interpreter& in, const std::vector<Value>& items, const Arguments& a) {
  const Value* separator = a.get(0, "d");
  const Value* attribute = a.get(1, "attribute");
  const Text between = separator ? to_text(*separator) : Text();
  Text out;
  for (size_t i = 0; i < items.size() && !in.failed(); ++i) {
    if (i) out.append(between);
    out.append(to_text(attribute ? by_path(in, items[i], *attribute) : items[i]));
    if (out.s.size() > in.options_.max_output) return in.fail("join: the string is too long");
  }
  return in.make_text(std::move(out));
}

Value Builtins::select(Interpreter& in, const std::string& name, const std::vector<Value>& items, const Arguments& a) {
  const bool by_attribute = name.size() > 6 && name.compare(name.size() - 4, 4, "attr") == 0;
  const bool keep = name[0] == 's';
  const size_t at = by_attribute ? 1 : 0;
  if (by_attribute && a.positional.empty()) return in.fail(cat(name, ": an attribute is expected"));
  Arguments rest;
  if (a.positional.size() > at + 1) rest.positional.assign(a.positional.begin() + long(at) + 1, a.positional.end());
  std::vector<Value> out;
  for (const Value& v : items) {
    const Value subject = by_attribute ? by_path(in, v, a.positional[0]) : v;
    bool hit = truthy(subject);
    if (a.positional.size() > at) {
      if (!a.positional[at].is_string()) return in.fail(cat(name, ": the name of a test is expected"));
      hit = test(in, a.positional[at].str(), subject, rest);
    }
    if (in.failed()) return {};
    if (hit == keep) out.push_back(v);
  }
  return in.make_list(std::move(out));
}

Value Builtins::map(Interpreter& in, const std::vector<Value>& items, const Arguments& a) {
  std::vector<Value> out;
  const Value* attribute = a.get(size_t(-1), "attribute");
  if (!attribute && (a.positional.empty() || !a.positional[0].is_string())) return in.fail("map: a filter or attribute= is expected");
  Arguments rest;
  if (!attribute) {
    rest.positional.assign(a.positional.begin() + 1, a.positional.end());
    rest.named = a.named;
  }
  const Value* fallback = a.get(size_t(-1), "default");
  for (const Value& v : items) {
    in.charge(0);
    if (!attribute) {
      out.push_back(filter(in, a.positional[0].str(), v, rest));
    } else {
      Value got = by_path(in, v, *attribute);
      out.push_back(got.is(Type::kUndefined) && fallback ? *fallback : std::move(got));
    }
    if (in.failed()) return {};
  }
  return in.make_list(std::move(out));
}

Value Builtins::sort(Interpreter& in, std::vector<Value> items, const Arguments& a, bool dict) {
  // sort(reverse, case_sensitive, attribute); dictsort(case_sensitive, by, reverse)
  const bool reverse = flag(a, dict ? 2 : 0, "reverse", false);
  const bool case_sensitive = flag(a, dict ? 0 : 1, "case_sensitive", false);
  const Value* attribute = dict ? nullptr : a.get(2, "attribute");
  const Value* by = dict ? a.get(1, "by") : nullptr;
  const bool by_value = by && by->is_string() && by->str() == "value";
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& v : items) {
    Value key = dict ? v.list().items[by_value ? 1 : 0] : attribute ? by_path(in, v, *attribute) : v;
    if (in.failed()) return {};
    if (!case_sensitive && key.is_string()) key = Value(Text(unicode::lowercase(key.str())));
    keyed.emplace_back(std::move(key), v);
  }
  // Checked before sorting: an order with holes would let std::sort run astray.
  for (size_t i = 1; i < keyed.size(); ++i) {
    if (!order(keyed[0].first, keyed[i].first) || keyed[i].first.is_sequence()) {
      return in.fail(cat("sort: a ", type_name(keyed[0].first), " and a ", type_name(keyed[i].first), " have no order"));
    }
  }
  in.charge(keyed.size() * 64);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& x, const auto& y) {
    const auto o = order(x.first, y.first);
    return o && (reverse ? *o > 0 : *o < 0);
  });
  std::vector<Value> out;
  for (auto& [key, value] : keyed) out.push_back(std::move(value));
  return in.make_list(std::move(out));
}

Value Builtins::number_filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a, bool& known) {
  if (name == "int") {
    if (input.is_integer()) return Value(input.integer());
    const Value* fallback = a.get(0, "default");
    const Value otherwise = fallback ? *fallback : Value(int64_t(0));
    double d = 0;
    if (input.is(Type::kFloat)) {
      d = input.number();
    } else {
      if (!input.is_string()) return otherwise;
      const std::string text = strip(input.text(), nullptr, true, true).s;
      int64_t value = 0;
      const char* begin = text.data() + (!text.empty() && text[0] == '+');
      const char* end = text.data() + text.size();
      if (std::from_chars(begin, end, value).ptr == end && begin != end) return Value(value);
      if (begin == end || std::from_chars(begin, end, d).ptr != end) return otherwise;
    }
    return std::isfinite(d) && std::fabs(d) < 9e18 ? Value(int64_t(d)) : otherwise;
  }
  if (name == "float") {
    if (input.is_number()) return Value(input.number());
    const Value* fallback = a.get(0, "default");
    double d = 0;
    if (input.is_string()) {
      const std::string text = strip(input.text(), nullptr, true, true).s;
      if (!text.empty() && std::from_chars(text.data(), text.data() + text.size(), d).ptr == text.data() + text.size()) return Value(d);
    }
    return fallback ? *fallback : Value(0.0);
  }
  if (name == "abs") {
    if (!input.is_number()) return in.fail("abs: a number is expected");
    if (input.is_integer() && input.integer() == INT64_MIN) return in.fail("an integer of more than 63 bits");
    return input.is_integer() ? Value(std::abs(input.integer())) : Value(std::fabs(input.number()));
  }
  if (name == "round") {
    if (!input.is_number()) return in.fail("round: a number is expected");
    const Value* precision = a.get(0, "precision");
    const Value* method = a.get(1, "method");
    const std::string how = method && method->is_string() ? method->str() : "common";
    const double scale = std::pow(10.0, precision && precision->is_integer() ? double(std::clamp<int64_t>(precision->integer(), -300, 300)) : 0.0);
    const double x = input.number() * scale;
    return Value((how == "ceil" ? std::ceil(x) : how == "floor" ? std::floor(x) : std::round(x)) / scale);
  }
  known = false;
  return {};
}

Value Builtins::text_filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a, bool& known) {
  const auto text = [&] { return to_text(input); };
  if (name == "trim") {
    const Value* chars = a.get(0, "chars");
    return in.make_text(strip(text(), chars && chars->is_string() ? &chars->str() : nullptr, true, true));
  }
  if (name == "upper" || name == "lower" || name == "capitalize" || name == "replace") {
    return string_method(in, text(), name, a);
  }
  if (name == "title") return in.make_text(title_words(text()));
  if (name == "indent") {
    const Value* width = a.get(0, "width");
    if (width && width->is_integer() && (width->integer() < 0 || width->integer() > 1000)) return in.fail("indent: a width from 0 to 1000 is expected");
    const std::string pad = width && width->is_string() ? width->str() : std::string(width && width->is_integer() ? size_t(width->integer()) : 4, ' ');
    in.charge(pad.size() * 64);
    return in.make_text(indent_lines(text(), pad, flag(a, 1, "first", false), flag(a, 2, "blank", false), in.options_.max_output));
  }
  if (name == "escape" || name == "e") {
    in.charge(input.is_string() ? input.str().size() * 16 : 0);
    return in.failed() ? Value() : in.make_text(escape_html(text()));
  }
  if (name == "wordcount") {
    const Value words = string_method(in, text(), "split", {});
    return in.failed() ? Value() : Value(int64_t(words.list().items.size()));
  }
  if (name == "format") {
    Text out;
    const Text pattern = text();
    size_t used = 0;
    for (size_t i = 0; i < pattern.s.size(); ++i) {
      if (pattern.s[i] != '%' || i + 1 == pattern.s.size()) {
        out.append(pattern.substr(i, 1));
        continue;
      }
      const char kind = pattern.s[++i];
      if (kind == '%') {
        out.append(pattern.substr(i, 1));
      } else if ((kind == 's' || kind == 'd') && used < a.positional.size()) {
        const Value& v = a.positional[used++];
        out.append(kind == 'd' && v.is(Type::kFloat) ? Text(std::to_string(int64_t(v.number()))) : to_text(v));
      } else {
        return in.fail(cat("format: '%", kind, "' is not supported, or has no value"));
      }
      if (out.s.size() > in.options_.max_output) return in.fail("format: the string is too long");
    }
    return in.make_text(std::move(out));
  }
  known = false;
  return {};
}

}  // namespace retort::jinja
