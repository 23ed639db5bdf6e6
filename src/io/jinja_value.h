// Values of the template language, with Python's rules for truth, equality, order, printing and JSON.
//
// Layer: io. Values are shared by reference; lists and dicts do not change after they are made, namespaces do.
#pragma once

#include <compare>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace retort::jinja {

// Text, and for each byte whether it came from a user. An empty mask means that none did.
struct Text {
  std::string s, mask;
  bool markup = false;  // of |safe and |escape: what is joined to it is escaped for HTML

  Text() = default;
  Text(std::string text, bool untrusted = false) : s(std::move(text)) {
    if (untrusted) mask.assign(s.size(), 1);
  }
  bool tainted() const { return mask.find('\1') != std::string::npos; }
  void append(const Text& other);
  // This and other, with the one that is not markup escaped when the other is.
  void append_markup(const Text& other);
  Text substr(size_t first, size_t count = std::string::npos) const;
};

struct List;
struct Dict;
struct Callable;
struct Loop;

enum class Type { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kTuple, kDict, kNamespace, kCallable, kLoop };

class Value {
 public:
  Value() = default;  // undefined
  static Value undefined(std::string name);
  static Value none();
  Value(bool b) : type_(Type::kBool), data_(b) {}
  Value(int64_t i) : type_(Type::kInt), data_(i) {}
  Value(double d) : type_(Type::kFloat), data_(d) {}
  Value(Text t) : type_(Type::kString), data_(std::make_shared<const Text>(std::move(t))) {}
  Value(const char* s) : Value(Text(s)) {}
  Value(std::shared_ptr<List> l, bool tuple = false) : type_(tuple ? Type::kTuple : Type::kList), data_(std::move(l)) {}
  Value(std::shared_ptr<Dict> d, bool space = false) : type_(space ? Type::kNamespace : Type::kDict), data_(std::move(d)) {}
  Value(std::shared_ptr<Callable> c) : type_(Type::kCallable), data_(std::move(c)) {}
  Value(std::shared_ptr<Loop> l) : type_(Type::kLoop), data_(std::move(l)) {}

  Type type() const { return type_; }
  bool is(Type t) const { return type_ == t; }
  bool is_string() const { return type_ == Type::kString; }
  bool is_sequence() const { return type_ == Type::kList || type_ == Type::kTuple; }
  bool is_dict() const { return type_ == Type::kDict || type_ == Type::kNamespace; }
  bool is_number() const { return type_ == Type::kInt || type_ == Type::kFloat || type_ == Type::kBool; }
  bool is_integer() const { return type_ == Type::kInt || type_ == Type::kBool; }

  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const { return type_ == Type::kBool ? int64_t(boolean()) : std::get<int64_t>(data_); }
  double number() const { return type_ == Type::kFloat ? std::get<double>(data_) : double(integer()); }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  const std::string& str() const { return text().s; }
  List& list() const { return *std::get<std::shared_ptr<List>>(data_); }
  Dict& dict() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  const std::shared_ptr<Dict>& dict_pointer() const { return std::get<std::shared_ptr<Dict>>(data_); }
  Callable& callable() const { return *std::get<std::shared_ptr<Callable>>(data_); }
  Loop& loop() const { return *std::get<std::shared_ptr<Loop>>(data_); }
  const std::string& undefined_name() const;
  bool same_object(const Value& other) const { return type_ == other.type_ && data_ == other.data_; }

 private:
  Type type_ = Type::kUndefined;
  std::variant<std::monostate, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<List>,
               std::shared_ptr<Dict>, std::shared_ptr<Callable>, std::shared_ptr<Loop>> data_;
};

// `depth` bounds the recursion of everything that walks a value: an item is at most one less deep.
constexpr int kMaxValueDepth = 100;

struct List {
  std::vector<Value> items;
  int depth = 1;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion
  int depth = 1;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, Value value);
};

struct Scope;
struct Node;

// A macro, a global function, or a method of a value.
struct Callable {
  enum class Kind { kMacro, kGlobal, kMethod, kCycler, kJoiner };
  Kind kind = Kind::kGlobal;
  std::string name;
  Value self;                   // method: the value; cycler: its items; joiner: the separator
  const Node* macro = nullptr;
  Scope* scope = nullptr;       // where the macro was defined
  std::optional<Value> caller;
  size_t position = 0;          // cycler, joiner
};

struct Loop {
  std::vector<Value> items;
  size_t index = 0;
  int depth = 1;                       // as of a list
  std::optional<std::string> changed;  // what loop.changed() saw last, as repr: a value could hold the loop itself
};

Text escape_html(const Text& text);
const char* type_name(const Value& v);
bool truthy(const Value& v);
bool equal(const Value& a, const Value& b, int depth = 0);
// Nothing when the two have no order.
std::optional<std::strong_ordering> order(const Value& a, const Value& b, int depth = 0);
Text to_text(const Value& v);                  // str(v)
std::string repr(const Value& v, int depth = 0);
std::string float_repr(double d);
bool tainted(const Value& v, int depth = 0);
int depth_of(const Value& v);

struct JsonStyle {
  std::string indent;  // empty: one line
  std::string item = ", ", key = ": ";
  bool sort_keys = false, ascii = false;
};
// False when something in it has no JSON form.
bool to_json(const Value& v, const JsonStyle& style, std::string& out, int level = 0);

Value from_json(const nlohmann::ordered_json& json, bool untrusted, int depth = 0);

// Python's str.isspace for one character.
bool is_python_space(char32_t c);

}  // namespace retort::jinja
