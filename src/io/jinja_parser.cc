#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <optional>

#include "io/jinja.h"
#include "io/jinja_ast.h"

namespace retort::jinja {
namespace {

using Kind = Token::Kind;

constexpr int kMaxNodeDepth = 300;
constexpr int kMaxNesting = 100;

// Recursive descent. The first error stays; after it every token is the end, so that all loops finish.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<TemplateBody> run() {
    TemplateBody body;
    body.nodes = statements({});
    if (!error_ && peek().kind != Kind::kEnd) fail(cat("unexpected {% ", tokens_[std::min(at_ + 1, tokens_.size() - 1)].text, " %}"));
    if (error_) return *error_;
    return body;
  }

 private:
  struct Nest {
    explicit Nest(Parser& p) : parser(p) {
      if (++parser.nesting_ > kMaxNesting) parser.fail("nested too deep");
    }
    ~Nest() { --parser.nesting_; }
    Parser& parser;
  };

  const Token& peek() const { return error_ ? tokens_.back() : tokens_[at_]; }
  const Token& next() {
    const Token& t = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return t;
  }
  void fail(const std::string& message) {
    if (!error_) error_ = template_error(tokens_[at_].line, message);
  }
  static std::string shown(const Token& t) {
    if (t.kind == Kind::kEnd) return "the end of the template";
    if (t.kind == Kind::kBlockEnd) return "%}";
    if (t.kind == Kind::kOutputEnd) return "}}";
    return cat("'", t.text.substr(0, 40), "'");
  }
  bool is_op(std::string_view text) const { return peek().kind == Kind::kOperator && peek().text == text; }
  bool is_name(std::string_view text) const { return peek().kind == Kind::kName && peek().text == text; }
  bool take_op(std::string_view text) { return is_op(text) ? (next(), true) : false; }
  bool take_name(std::string_view text) { return is_name(text) ? (next(), true) : false; }
  void expect_op(std::string_view text) {
    if (!take_op(text)) fail(cat("expected '", text, "', found ", shown(peek())));
  }
  void expect_block_end() {
    if (peek().kind != Kind::kBlockEnd) return fail(cat("expected %}, found ", shown(peek())));
    next();
  }
  std::string identifier() {
    if (peek().kind != Kind::kName) {
      fail(cat("expected a name, found ", shown(peek())));
      return {};
    }
    return next().text;
  }

  NodePtr make(Op op, std::string name = {}) {
    auto node = std::make_unique<Node>();
    node->op = op;
    node->line = peek().line;
    node->name = std::move(name);
    return node;
  }
  // Call after the children are in.
  NodePtr done(NodePtr node) {
    int deepest = 0;
    const auto look = [&](const NodePtr& n) {
      if (n) deepest = std::max(deepest, n->depth);
    };
    for (const auto& n : node->kids) look(n);
    for (const auto& n : node->named) look(n.second);
    for (const auto& body : node->bodies) std::for_each(body.begin(), body.end(), look);
    node->depth = deepest + 1;
    if (node->depth > kMaxNodeDepth) fail("an expression or nesting is too deep");
    return node;
  }
  NodePtr binary(Op op, NodePtr left, NodePtr right) {
    auto node = make(op);
    node->kids.push_back(std::move(left));
    node->kids.push_back(std::move(right));
    return done(std::move(node));
  }
  NodePtr constant(Value v) {
    auto node = make(Op::kConst);
    node->value = std::move(v);
    return node;
  }

  // ---- statements

  // Up to {% one of ends, which stays unread from its name on.
  std::vector<NodePtr> statements(std::initializer_list<std::string_view> ends) {
    Nest nest(*this);
    std::vector<NodePtr> out;
    while (!error_) {
      const Token& t = peek();
      if (t.kind == Kind::kText) {
        auto node = make(Op::kText);
        node->value = Value(Text(next().text));
        out.push_back(std::move(node));
      } else if (t.kind == Kind::kOutputBegin) {
        next();
        auto node = make(Op::kOutput);
        node->kids.push_back(tuple_or_expression());
        if (peek().kind != Kind::kOutputEnd) fail(cat("expected }}, found ", shown(peek())));
        next();
        out.push_back(done(std::move(node)));
      } else if (t.kind == Kind::kBlockBegin) {
        const std::string& word = tokens_[at_ + 1].text;
        if (std::find(ends.begin(), ends.end(), word) != ends.end()) {
          next();
          return out;
        }
        if (ends.size() == 0 && word.compare(0, 3, "end") == 0) return out;
        next();
        if (auto node = statement()) out.push_back(std::move(node));
      } else {
        if (ends.size() > 0) fail(cat("a block does not end with {% ", *(ends.end() - 1), " %}"));
        return out;
      }
    }
    return out;
  }
  // Reads {% end %} whose name is next.
  void end_block() {
    next();
    expect_block_end();
  }
  std::vector<NodePtr> body(std::string_view end) {
    expect_block_end();
    auto out = statements({end});
    end_block();
    return out;
  }

  NodePtr statement() {
    const std::string word = identifier();
    if (error_) return nullptr;
    if (word == "if") return if_statement();
    if (word == "for") return for_statement();
    if (word == "set") return set_statement();
    if (word == "macro") return macro_statement();
    if (word == "call") return call_statement();
    if (word == "filter") return filter_statement();
    if (word == "with") return with_statement();
    if (word == "generation") {
      auto node = make(Op::kGroup);
      node->bodies.push_back(body("endgeneration"));
      return done(std::move(node));
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) fail(cat("{% ", word, " %} outside a loop"));
      auto node = make(word == "break" ? Op::kBreak : Op::kContinue);
      expect_block_end();
      return node;
    }
    fail(cat("{% ", word, " %} is not supported"));
    return nullptr;
  }

  NodePtr if_statement() {
    auto node = make(Op::kIf);
    while (!error_) {
      node->kids.push_back(tuple_or_expression());
      expect_block_end();
      node->bodies.push_back(statements({"elif", "else", "endif"}));
      const std::string word = next().text;
      if (word == "elif") continue;
      if (word == "else") {
        node->bodies.push_back(body("endif"));
      } else {
        expect_block_end();
      }
      break;
    }
    return done(std::move(node));
  }

  NodePtr for_statement() {
    auto node = make(Op::kFor);
    node->kids.push_back(target());
    if (!take_name("in")) fail(cat("expected 'in', found ", shown(peek())));
    node->kids.push_back(tuple_or_expression(/*conditional=*/false));
    node->kids.push_back(take_name("if") ? expression() : nullptr);
    if (is_name("recursive")) fail("recursive loops are not supported");
    expect_block_end();
    ++loops_;
    node->bodies.push_back(statements({"else", "endfor"}));
    --loops_;
    if (next().text == "else") {
      node->bodies.push_back(body("endfor"));
    } else {
      expect_block_end();
    }
    return done(std::move(node));
  }

  NodePtr set_statement() {
    auto where = target();
    auto node = make(Op::kSet);
    node->kids.push_back(std::move(where));
    if (take_op("=")) {
      node->kids.push_back(tuple_or_expression());
      expect_block_end();
      return done(std::move(node));
    }
    node->op = Op::kSetBlock;
    NodePtr input = nullptr;
    node->kids.push_back(filters(std::move(input)));
    node->bodies.push_back(body("endset"));
    return done(std::move(node));
  }

  void parameters(Node& node) {
    if (!take_op("(")) return;
    while (!error_ && !is_op(")")) {
      if (!node.named.empty()) expect_op(",");
      if (is_op(")")) break;
      std::string name = identifier();
      node.named.emplace_back(std::move(name), take_op("=") ? expression() : nullptr);
    }
    expect_op(")");
  }

  NodePtr macro_statement() {
    auto node = make(Op::kMacro, identifier());
    parameters(*node);
    return inner_block(std::move(node), "endmacro");
  }
  // A body in which an outer loop cannot be broken.
  NodePtr inner_block(NodePtr node, std::string_view end) {
    const int outer = std::exchange(loops_, 0);
    node->bodies.push_back(body(end));
    loops_ = outer;
    return done(std::move(node));
  }

  NodePtr call_statement() {
    auto node = make(Op::kCallBlock);
    parameters(*node);
    node->kids.push_back(expression());
    if (!error_ && node->kids[0]->op != Op::kCall) fail("{% call %} expects a call");
    return inner_block(std::move(node), "endcall");
  }

  NodePtr filter_statement() {
    auto node = make(Op::kFilterBlock);
    node->kids.push_back(filter(nullptr));
    NodePtr rest = filters(std::move(node->kids[0]));
    node->kids[0] = std::move(rest);
    return inner_block(std::move(node), "endfilter");
  }

  NodePtr with_statement() {
    auto node = make(Op::kWith);
    while (!error_ && peek().kind != Kind::kBlockEnd) {
      if (!node->named.empty()) expect_op(",");
      std::string name = identifier();
      expect_op("=");
      node->named.emplace_back(std::move(name), expression());
    }
    node->bodies.push_back(body("endwith"));
    return done(std::move(node));
  }

  // Name, namespace attribute, or a tuple of names.
  NodePtr target() {
    auto first = one_target();
    if (!is_op(",")) return first;
    auto node = make(Op::kTuple);
    node->kids.push_back(std::move(first));
    while (!error_ && take_op(",")) {
      if (peek().kind != Kind::kName || is_name("in")) break;
      node->kids.push_back(one_target());
    }
    return done(std::move(node));
  }
  NodePtr one_target() {
    Nest nest(*this);
    if (take_op("(")) {
      auto inner = target();
      expect_op(")");
      return inner;
    }
    auto node = make(Op::kName, identifier());
    if (!take_op(".")) return node;
    auto attribute = make(Op::kAttribute, identifier());
    attribute->kids.push_back(std::move(node));
    return done(std::move(attribute));
  }

  // ---- expressions, weakest first

  NodePtr tuple_or_expression(bool conditional = true) {
    auto first = conditional ? expression() : or_expression();
    if (!is_op(",")) return first;
    auto node = make(Op::kTuple);
    node->kids.push_back(std::move(first));
    while (!error_ && take_op(",")) {
      const Token& t = peek();
      if (t.kind == Kind::kBlockEnd || t.kind == Kind::kOutputEnd || is_op(")")) break;
      node->kids.push_back(conditional ? expression() : or_expression());
    }
    return done(std::move(node));
  }

  NodePtr expression() {
    Nest nest(*this);
    auto value = or_expression();
    while (!error_ && take_name("if")) {
      auto node = make(Op::kConditional);
      node->kids.push_back(or_expression());
      node->kids.push_back(std::move(value));
      node->kids.push_back(take_name("else") ? expression() : nullptr);
      value = done(std::move(node));
    }
    return value;
  }
  NodePtr or_expression() {
    auto left = and_expression();
    while (!error_ && take_name("or")) left = binary(Op::kOr, std::move(left), and_expression());
    return left;
  }
  NodePtr and_expression() {
    auto left = not_expression();
    while (!error_ && take_name("and")) left = binary(Op::kAnd, std::move(left), not_expression());
    return left;
  }
  NodePtr not_expression() {
    Nest nest(*this);
    if (!take_name("not")) return comparison();
    auto node = make(Op::kNot);
    if (!error_) node->kids.push_back(not_expression());
    return done(std::move(node));
  }
  NodePtr comparison() {
    auto first = sum();
    NodePtr node;
    while (!error_) {
      std::string op;
      if (peek().kind == Kind::kOperator && (peek().text == "==" || peek().text == "!=" || peek().text == "<" ||
                                             peek().text == "<=" || peek().text == ">" || peek().text == ">=")) {
        op = next().text;
      } else if (take_name("in")) {
        op = "in";
      } else if (is_name("not") && tokens_[at_ + 1].kind == Kind::kName && tokens_[at_ + 1].text == "in") {
        next();
        next();
        op = "not in";
      } else {
        break;
      }
      if (!node) {
        node = make(Op::kCompare);
        node->kids.push_back(std::move(first));
      }
      node->operators.push_back(op);
      node->kids.push_back(sum());
    }
    return node ? done(std::move(node)) : std::move(first);
  }
  NodePtr sum() {
    auto left = concatenation();
    while (!error_ && (is_op("+") || is_op("-"))) {
      const Op op = next().text == "+" ? Op::kAdd : Op::kSubtract;
      left = binary(op, std::move(left), concatenation());
    }
    return left;
  }
  NodePtr concatenation() {
    auto left = product();
    while (!error_ && take_op("~")) left = binary(Op::kConcat, std::move(left), product());
    return left;
  }
  NodePtr product() {
    auto left = power();
    while (!error_ && (is_op("*") || is_op("/") || is_op("//") || is_op("%"))) {
      const std::string text = next().text;
      const Op op = text == "*" ? Op::kMultiply : text == "/" ? Op::kDivide : text == "//" ? Op::kFloorDivide : Op::kModulo;
      left = binary(op, std::move(left), power());
    }
    return left;
  }
  NodePtr power() {
    auto left = unary(true);
    while (!error_ && take_op("**")) left = binary(Op::kPower, std::move(left), unary(true));
    return left;
  }
  NodePtr unary(bool with_filters) {
    Nest nest(*this);
    NodePtr node;
    if (is_op("-") || is_op("+")) {
      const Op op = next().text == "-" ? Op::kNegative : Op::kPositive;
      auto sign = make(op);
      if (!error_) sign->kids.push_back(unary(false));
      node = done(std::move(sign));
    } else {
      node = postfix(primary());
    }
    return with_filters ? filters(std::move(node)) : std::move(node);
  }

  NodePtr primary() {
    const Token t = peek();
    switch (t.kind) {
      case Kind::kName: return name_or_constant();
      case Kind::kString: {
        std::string text;
        while (peek().kind == Kind::kString) text += next().text;
        return constant(Value(Text(std::move(text))));
      }
      case Kind::kInteger: {
        int64_t value = 0;
        const auto result = std::from_chars(t.text.data(), t.text.data() + t.text.size(), value);
        if (result.ec != std::errc()) fail("an integer of more than 63 bits");
        next();
        return constant(Value(value));
      }
      case Kind::kFloat: {
        double value = 0;
        std::from_chars(t.text.data(), t.text.data() + t.text.size(), value);
        next();
        return constant(Value(value));
      }
      default: break;
    }
    if (take_op("(")) return parenthesis();
    if (take_op("[")) return list();
    if (take_op("{")) return dict();
    fail(cat("unexpected ", shown(t)));
    return constant({});
  }
  NodePtr name_or_constant() {
    const std::string name = next().text;
    if (name == "true" || name == "True") return constant(Value(true));
    if (name == "false" || name == "False") return constant(Value(false));
    if (name == "none" || name == "None") return constant(Value::none());
    return make(Op::kName, name);
  }
  NodePtr parenthesis() {
    if (take_op(")")) return make(Op::kTuple);
    auto node = tuple_or_expression();
    expect_op(")");
    return node;
  }
  NodePtr list() {
    auto node = make(Op::kList);
    while (!error_ && !is_op("]")) {
      if (!node->kids.empty()) expect_op(",");
      if (is_op("]")) break;
      node->kids.push_back(expression());
    }
    expect_op("]");
    return done(std::move(node));
  }
  NodePtr dict() {
    auto node = make(Op::kDict);
    while (!error_ && !is_op("}")) {
      if (!node->kids.empty()) expect_op(",");
      if (is_op("}")) break;
      node->kids.push_back(expression());
      expect_op(":");
      node->kids.push_back(expression());
    }
    expect_op("}");
    return done(std::move(node));
  }

  NodePtr postfix(NodePtr node) {
    while (!error_) {
      if (take_op(".")) {
        const Token t = next();
        if (t.kind != Kind::kName && t.kind != Kind::kInteger) fail(cat("expected a name after '.', found ", shown(t)));
        auto attribute = make(t.kind == Kind::kName ? Op::kAttribute : Op::kItem, t.text);
        attribute->kids.push_back(std::move(node));
        if (t.kind == Kind::kInteger) attribute->kids.push_back(constant(Value(int64_t(std::atoll(t.text.c_str())))));
        node = done(std::move(attribute));
      } else if (take_op("[")) {
        node = subscript(std::move(node));
      } else if (is_op("(")) {
        node = call(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }
  NodePtr subscript(NodePtr object) {
    NodePtr parts[3];
    bool slice = false;
    for (size_t i = 0; i < 3 && !error_; ++i) {
      if (!is_op(":") && !is_op("]")) parts[i] = expression();
      if (!take_op(":")) break;
      slice = true;
    }
    expect_op("]");
    auto node = make(slice ? Op::kSlice : Op::kItem);
    node->kids.push_back(std::move(object));
    for (size_t i = 0; i < (slice ? 3 : 1); ++i) node->kids.push_back(std::move(parts[i]));
    if (!slice && !node->kids[1]) fail("an empty subscript");
    return done(std::move(node));
  }
  void arguments(Node& node) {
    expect_op("(");
    bool first = true;
    while (!error_ && !is_op(")")) {
      if (!first) expect_op(",");
      first = false;
      if (is_op(")")) break;
      if (is_op("*") || is_op("**")) fail("* and ** arguments are not supported");
      if (peek().kind == Kind::kName && tokens_[at_ + 1].kind == Kind::kOperator && tokens_[at_ + 1].text == "=") {
        std::string name = next().text;
        next();
        node.named.emplace_back(std::move(name), expression());
      } else {
        if (!node.named.empty()) fail("a positional argument after a named one");
        node.kids.push_back(expression());
      }
    }
    expect_op(")");
  }
  NodePtr call(NodePtr function) {
    auto node = make(Op::kCall);
    node->kids.push_back(std::move(function));
    arguments(*node);
    return done(std::move(node));
  }

  NodePtr filters(NodePtr node) {
    while (!error_) {
      if (take_op("|")) {
        node = filter(std::move(node));
      } else if (take_name("is")) {
        node = test(std::move(node));
      } else if (is_op("(") && node) {
        node = call(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }
  NodePtr filter(NodePtr input) {
    auto node = make(Op::kFilter, identifier());
    node->kids.push_back(std::move(input));
    if (is_op("(")) arguments(*node);
    return done(std::move(node));
  }
  NodePtr test(NodePtr input) {
    const bool negated = take_name("not");
    auto node = make(Op::kTest, identifier());
    node->kids.push_back(std::move(input));
    const Token& t = peek();
    if (is_op("(")) {
      arguments(*node);
    } else if (t.kind == Kind::kString || t.kind == Kind::kInteger || t.kind == Kind::kFloat || is_op("[") || is_op("{") ||
               (t.kind == Kind::kName && t.text != "else" && t.text != "or" && t.text != "and" && t.text != "is" &&
                t.text != "if" && t.text != "in" && t.text != "not")) {
      node->kids.push_back(postfix(primary()));
    }
    auto out = done(std::move(node));
    if (!negated) return out;
    auto no = make(Op::kNot);
    no->kids.push_back(std::move(out));
    return done(std::move(no));
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0, loops_ = 0;
  std::optional<Error> error_;
};

}  // namespace

Result<TemplateBody> parse_template(std::string_view source) {
  RETORT_TRY(auto tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace retort::jinja
