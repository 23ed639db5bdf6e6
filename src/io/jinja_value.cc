#include "io/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "io/unicode.h"
#include "io/utf8.h"

namespace retort::jinja {

void Text::append(const Text& other) {
  if (!mask.empty() || !other.mask.empty()) {
    mask.resize(s.size(), 0);
    if (other.mask.empty()) {
      mask.append(other.s.size(), 0);
    } else {
      mask += other.mask;
    }
  }
  s += other.s;
}

Text Text::substr(size_t first, size_t count) const {
  Text out;
  out.s = s.substr(first, count);
  if (!mask.empty()) out.mask = mask.substr(first, count);
  return out;
}

void Text::append_markup(const Text& other) {
  if (other.markup && !markup) *this = escape_html(*this);
  append(markup && !other.markup ? escape_html(other) : other);
}

Text escape_html(const Text& text) {
  Text out;
  if (text.markup) return text;
  for (size_t i = 0; i < text.s.size(); ++i) {
    const char* entity = nullptr;
    switch (text.s[i]) {
      case '&': entity = "&amp;"; break;
      case '<': entity = "&lt;"; break;
      case '>': entity = "&gt;"; break;
      case '\'': entity = "&#39;"; break;
      case '"': entity = "&#34;"; break;
      default: break;
    }
    out.append(entity ? Text(entity, !text.mask.empty() && text.mask[i]) : text.substr(i, 1));
  }
  out.markup = true;
  return out;
}

Value Value::undefined(std::string name) {
  Value v;
  v.data_ = std::make_shared<const Text>(std::move(name));
  return v;
}

Value Value::none() {
  Value v;
  v.type_ = Type::kNone;
  return v;
}

const std::string& Value::undefined_name() const {
  static const std::string nameless = "a value";
  const auto* name = std::get_if<std::shared_ptr<const Text>>(&data_);
  return name == nullptr ? nameless : (*name)->s;
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [k, v] : items) {
    if (equal(k, key)) return &v;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [k, v] : items) {
    if (k.is_string() && k.str() == key) return &v;
  }
  return nullptr;
}

void Dict::set(const Value& key, Value value) {
  depth = std::max(depth, 1 + depth_of(value));
  for (auto& [k, v] : items) {
    if (equal(k, key)) {
      v = std::move(value);
      return;
    }
  }
  items.emplace_back(key, std::move(value));
}

const char* type_name(const Value& v) {
  constexpr const char* kNames[] = {"undefined", "none", "boolean", "integer", "float", "string", "list", "tuple", "dict",
                                    "namespace", "function", "loop"};
  return kNames[size_t(v.type())];
}

int depth_of(const Value& v) {
  if (v.is_sequence()) return v.list().depth;
  if (v.is_dict()) return v.dict().depth;
  if (v.is(Type::kLoop)) return v.loop().depth;
  if (v.is(Type::kCallable)) return 1 + depth_of(v.callable().self);
  return 0;
}

bool truthy(const Value& v) {
  switch (v.type()) {
    case Type::kUndefined:
    case Type::kNone: return false;
    case Type::kBool: return v.boolean();
    case Type::kInt: return v.integer() != 0;
    case Type::kFloat: return v.number() != 0;
    case Type::kString: return !v.str().empty();
    case Type::kList:
    case Type::kTuple: return !v.list().items.empty();
    case Type::kDict: return !v.dict().items.empty();
    default: return true;
  }
}

bool equal(const Value& a, const Value& b, int depth) {
  if (depth > kMaxValueDepth) return false;
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.number() == b.number();
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kUndefined:
    case Type::kNone: return true;
    case Type::kString: return a.str() == b.str();
    case Type::kList:
    case Type::kTuple: {
      const auto &x = a.list().items, &y = b.list().items;
      return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                        [&](const Value& l, const Value& r) { return equal(l, r, depth + 1); });
    }
    case Type::kDict: {
      const auto& x = a.dict().items;
      return x.size() == b.dict().items.size() && std::all_of(x.begin(), x.end(), [&](const auto& item) {
               const Value* other = b.dict().find(item.first);
               return other != nullptr && equal(item.second, *other, depth + 1);
             });
    }
    default: return a.same_object(b);
  }
}

std::optional<std::strong_ordering> order(const Value& a, const Value& b, int depth) {
  if (a.is_number() && b.is_number()) {
    const double x = a.number(), y = b.number();
    if (a.is_integer() && b.is_integer()) return a.integer() <=> b.integer();
    if (std::isnan(x) || std::isnan(y)) return std::nullopt;
    return x < y ? std::strong_ordering::less : x > y ? std::strong_ordering::greater : std::strong_ordering::equal;
  }
  // UTF-8 sorts like its code points.
  if (a.is_string() && b.is_string()) return a.str().compare(b.str()) <=> 0;
  if (a.type() == b.type() && a.is_sequence() && depth <= kMaxValueDepth) {
    const auto &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], depth + 1)) return order(x[i], y[i], depth + 1);
    }
    return x.size() <=> y.size();
  }
  return std::nullopt;
}

// Python's repr: the shortest digits that read back the same, as a decimal between 1e-4 and 1e16.
std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  const std::string text(buffer, end);
  const int exponent = std::atoi(text.c_str() + text.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed).ptr;
  std::string out(buffer, fixed);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

namespace {

std::string string_repr(const std::string& s) {
  const char quote = s.find('\'') != std::string::npos && s.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t pos = 0; pos < s.size();) {
    const size_t start = pos;
    const char32_t c = utf8::next(s, pos);
    char buffer[16];
    if (c == char32_t(quote) || c == '\\') {
      out += '\\';
      out += char(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad) {
      std::snprintf(buffer, sizeof buffer, "\\x%02x", unsigned(c));
      out += buffer;
    } else {
      out.append(s, start, pos - start);
    }
  }
  return out += quote;
}

}  // namespace

std::string repr(const Value& v, int depth) {
  if (depth > kMaxValueDepth) return "...";
  switch (v.type()) {
    case Type::kUndefined: return "Undefined";
    case Type::kNone: return "None";
    case Type::kBool: return v.boolean() ? "True" : "False";
    case Type::kInt: return std::to_string(v.integer());
    case Type::kFloat: return float_repr(v.number());
    case Type::kString: return string_repr(v.str());
    case Type::kList:
    case Type::kTuple: {
      const bool tuple = v.is(Type::kTuple);
      std::string out = tuple ? "(" : "[";
      for (size_t i = 0; i < v.list().items.size(); ++i) out += (i ? ", " : "") + repr(v.list().items[i], depth + 1);
      if (tuple && v.list().items.size() == 1) out += ",";
      return out + (tuple ? ")" : "]");
    }
    case Type::kDict:
    case Type::kNamespace: {
      std::string out = v.is(Type::kDict) ? "{" : "<Namespace {";
      bool first = true;
      for (const auto& [key, value] : v.dict().items) {
        out += (first ? "" : ", ") + repr(key, depth + 1) + ": " + repr(value, depth + 1);
        first = false;
      }
      return out + (v.is(Type::kDict) ? "}" : "}>");
    }
    case Type::kCallable: return "<function>";
    case Type::kLoop: return "<LoopContext>";
  }
  return "";
}

Text to_text(const Value& v) {
  if (v.is_string()) return v.text();
  if (v.is(Type::kUndefined)) return {};
  return Text(repr(v), tainted(v));
}

bool tainted(const Value& v, int depth) {
  if (depth > kMaxValueDepth) return true;
  if (v.is_string()) return v.text().tainted();
  if (v.is_sequence()) {
    const auto& items = v.list().items;
    return std::any_of(items.begin(), items.end(), [&](const Value& x) { return tainted(x, depth + 1); });
  }
  if (v.is_dict()) {
    const auto& items = v.dict().items;
    return std::any_of(items.begin(), items.end(),
                       [&](const auto& x) { return tainted(x.first, depth + 1) || tainted(x.second, depth + 1); });
  }
  return false;
}

namespace {

void json_string(const std::string& s, bool ascii, std::string& out) {
  out += '"';
  for (size_t pos = 0; pos < s.size();) {
    const size_t start = pos;
    const char32_t c = utf8::next(s, pos);
    char buffer[16] = "";
    const auto unit = [&](unsigned u) {
      std::snprintf(buffer, sizeof buffer, "\\u%04x", u);
      out += buffer;
    };
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000)) {
          unit(unsigned(c));
        } else if (ascii && c >= 0x10000) {
          unit(0xd800 + ((unsigned(c) - 0x10000) >> 10));
          unit(0xdc00 + ((unsigned(c) - 0x10000) & 0x3ff));
        } else {
          out.append(s, start, pos - start);
        }
    }
  }
  out += '"';
}

void new_line(const JsonStyle& style, int level, std::string& out) {
  if (style.indent.empty()) return;
  out += '\n';
  for (int i = 0; i < level; ++i) out += style.indent;
}

bool json_dict(const Dict& dict, const JsonStyle& style, std::string& out, int level) {
  auto items = dict.items;
  if (style.sort_keys) {
    std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
      const auto o = order(a.first, b.first);
      return o && *o < 0;
    });
  }
  if (items.empty()) return out += "{}", true;
  out += '{';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i) out += style.item;
    new_line(style, level + 1, out);
    const Value& key = items[i].first;
    if (key.is_string()) {
      json_string(key.str(), style.ascii, out);
    } else if (key.is_number() || key.is(Type::kNone)) {
      out += '"';
      to_json(key, style, out, level + 1);
      out += '"';
    } else {
      return false;
    }
    out += style.key;
    if (!to_json(items[i].second, style, out, level + 1)) return false;
  }
  new_line(style, level, out);
  return out += '}', true;
}

}  // namespace

bool to_json(const Value& v, const JsonStyle& style, std::string& out, int level) {
  if (level > kMaxValueDepth) return false;
  switch (v.type()) {
    case Type::kNone: return out += "null", true;
    case Type::kBool: return out += v.boolean() ? "true" : "false", true;
    case Type::kInt: return out += std::to_string(v.integer()), true;
    case Type::kFloat: {
      const double d = v.number();
      return out += std::isnan(d) ? "NaN" : std::isinf(d) ? (d > 0 ? "Infinity" : "-Infinity") : float_repr(d), true;
    }
    case Type::kString: return json_string(v.str(), style.ascii, out), true;
    case Type::kList:
    case Type::kTuple: {
      const auto& items = v.list().items;
      if (items.empty()) return out += "[]", true;
      out += '[';
      for (size_t i = 0; i < items.size(); ++i) {
        if (i) out += style.item;
        new_line(style, level + 1, out);
        if (!to_json(items[i], style, out, level + 1)) return false;
      }
      new_line(style, level, out);
      return out += ']', true;
    }
    case Type::kDict: return json_dict(v.dict(), style, out, level);
    default: return false;
  }
}

Value from_json(const nlohmann::ordered_json& json, bool untrusted, int depth) {
  if (depth >= kMaxValueDepth) return {};
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::null: return Value::none();
    case nlohmann::ordered_json::value_t::boolean: return Value(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer: return Value(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned:
      return json.get<uint64_t>() > uint64_t(INT64_MAX) ? Value(json.get<double>()) : Value(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_float: return Value(json.get<double>());
    case nlohmann::ordered_json::value_t::string: {
      const auto& s = json.get_ref<const std::string&>();
      return Value(Text(utf8::is_valid(s) ? s : utf8::repair(s), untrusted));
    }
    case nlohmann::ordered_json::value_t::array: {
      auto list = std::make_shared<List>();
      for (const auto& item : json) {
        list->items.push_back(from_json(item, untrusted, depth + 1));
        list->depth = std::max(list->depth, 1 + depth_of(list->items.back()));
      }
      return Value(std::move(list));
    }
    case nlohmann::ordered_json::value_t::object: {
      auto dict = std::make_shared<Dict>();
      for (const auto& [key, item] : json.items()) {
        dict->items.emplace_back(Value(Text(utf8::repair(key), untrusted)), from_json(item, untrusted, depth + 1));
        dict->depth = std::max(dict->depth, 1 + depth_of(dict->items.back().second));
      }
      return Value(std::move(dict));
    }
    default: return {};
  }
}

bool is_python_space(char32_t c) { return unicode::is_space(c) || (c >= 0x1c && c <= 0x1f); }

}  // namespace retort::jinja
