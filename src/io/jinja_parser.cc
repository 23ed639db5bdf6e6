#include <initializer_list>

#include "io/jinja.h"
#include "io/jinja_expression_parser.h"

namespace retort::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Result<TemplateBody> run() {
    TemplateBody body;
    body.nodes = statements({});
    if (!failed() && peek().kind != Kind::kEnd) fail(cat("unexpected {% ", second().text, " %}"));
    if (failed()) return error();
    return body;
  }

 private:
  // Up to {% one of ends, which stays unread from its name on.
  std::vector<NodePtr> statements(std::initializer_list<std::string_view> ends) {
    Nest nest(*this);
    std::vector<NodePtr> out;
    while (!failed()) {
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
        const std::string& word = second().text;
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
    if (failed()) return nullptr;
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
    while (!failed()) {
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
    while (!failed() && !is_op(")")) {
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
    if (!failed() && node->kids[0]->op != Op::kCall) fail("{% call %} expects a call");
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
    while (!failed() && peek().kind != Kind::kBlockEnd) {
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
    while (!failed() && take_op(",")) {
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

  int loops_ = 0;
};

}  // namespace

Result<TemplateBody> parse_template(std::string_view source) {
  RETORT_TRY(auto tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace retort::jinja
