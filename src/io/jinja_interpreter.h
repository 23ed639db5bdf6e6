// Walks a template's tree. The first error stays; every step after it gives undefined at once.
//
// Layer: io. One object per rendering.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/jinja.h"
#include "io/jinja_ast.h"

namespace retort::jinja {

inline constexpr int kMaxEvalDepth = 700;     // statements and expressions in one another
inline constexpr size_t kMaxItems = 1 << 20;  // of a list

// Variables; what is not here is looked up in the parent.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;
  Value* find(const std::string& name);
  void set(const std::string& name, Value value);
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // The argument at `index` or called `name`; null when it was not given.
  const Value* get(size_t index, std::string_view name) const;
};

class Interpreter {
 public:
  explicit Interpreter(const RenderOptions& options) : options_(options) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  void set_global(const std::string& name, Value value) { globals_.set(name, std::move(value)); }
  Result<Rendered> render(const TemplateBody& body);

 private:
  friend class Builtins;
  enum class Flow { kNext, kBreak, kContinue };

  // Failure and budget. (jinja_interpreter.cc)
  Value fail(const std::string& message);
  bool failed() const { return error_.has_value(); }
  void charge(size_t work);

  // Values within bounds.
  Value make_list(std::vector<Value> items, bool tuple = false);
  Value make_dict(std::vector<std::pair<Value, Value>> items);
  Value make_text(Text text);
  // What a for loop or a filter walks; false (and an error) when `v` cannot be walked.
  bool items_of(const Value& v, std::vector<Value>& out);
  // Output.
  void write(const Text& text);
  Text captured(const std::vector<NodePtr>& nodes);

  // Statements. (jinja_statements.cc)
  Flow run(const std::vector<NodePtr>& nodes);
  Flow run(const Node& node);
  Flow run_if(const Node& node);
  Flow run_for(const Node& node);
  Flow loop_over(const Node& node, const std::shared_ptr<Loop>& loop);
  Flow run_scoped(const Node& node);
  void run_set(const Node& node);
  void assign(const Node& target, const Value& value);

  // Calls. (jinja_calls.cc)
  Arguments arguments(const Node& node, size_t first);
  Value call(const Value& function, Arguments arguments);
  void define_macro(const Node& node);
  Value call_macro(const Callable& macro, Arguments arguments);
  void run_call_block(const Node& node);
  Value apply_filter(const Node& node, Value input);

  // Expressions. (jinja_expressions.cc)
  Value eval(const Node& node);
  Value eval_now(const Node& node);
  Value lookup(const std::string& name);
  Value binary(const Node& node);
  Value arithmetic(Op op, const Value& a, const Value& b);
  Value add(const Value& a, const Value& b);
  Value repeat(const Value& sequence, int64_t times);
  Value compare(const Node& node);
  bool contains(const Value& container, const Value& item);

  // Access. (jinja_access.cc)
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  Value slice(const Node& node);
  Value loop_attribute(const Value& loop, const std::string& name);
  Value bound_method(const Value& self, const std::string& name);

  RenderOptions options_;
  std::optional<Error> error_;
  size_t steps_ = 0;
  int depth_ = 0, line_ = 0;
  size_t macros_defined_ = 0;
  Text output_;
  Text* out_ = &output_;
  Scope globals_;
  std::deque<Scope> scopes_;
  Scope* scope_ = nullptr;
  std::vector<std::shared_ptr<Dict>> namespaces_;  // cleared at the end: they may hold themselves
};

// Filters, tests, methods and global functions.
class Builtins {
 public:
  static Value filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& arguments);
  static bool test(Interpreter& in, const std::string& name, const Value& input, const Arguments& arguments);
  static Value method(Interpreter& in, const Value& self, const std::string& name, const Arguments& arguments);
  static Value global(Interpreter& in, const std::string& name, const Arguments& arguments);
  static bool is_method(const Value& self, const std::string& name);
  static bool is_global(const std::string& name);

 private:
  static Value list_filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a, bool& known);
  static Value text_filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a, bool& known);
  static Value number_filter(Interpreter& in, const std::string& name, const Value& input, const Arguments& a, bool& known);
  static Value tojson(Interpreter& in, const Value& input, const Arguments& a);
  static Value select(Interpreter& in, const std::string& name, const std::vector<Value>& items, const Arguments& a);
  static Value map(Interpreter& in, const std::vector<Value>& items, const Arguments& a);
  static Value sort(Interpreter& in, std::vector<Value> items, const Arguments& a, bool dict);
  static Value batch(Interpreter& in, const std::vector<Value>& items, const Arguments& a);
  static Value groupby(Interpreter& in, const std::vector<Value>& items, const Arguments& a);
  static Value format(Interpreter& in, const Text& pattern, const Arguments& a);
  static Value join(Interpreter& in, const std::vector<Value>& items, const Arguments& a);
  static Value string_method(Interpreter& in, const Text& self, const std::string& name, const Arguments& a);
  static Value split(Interpreter& in, const Text& self, const Arguments& a, bool from_right);
  static Value by_path(Interpreter& in, Value value, const Value& path);
};

}  // namespace retort::jinja
