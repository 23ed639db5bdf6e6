#include "io/jinja_expression_parser.h"

#include <charconv>
#include <cstdlib>

namespace retort::jinja {

NodePtr ExpressionParser::tuple_or_expression(bool conditional) {
  auto first = conditional ? expression() : or_expression();
  if (!is_op(",")) return first;
  auto node = make(Op::kTuple);
  node->kids.push_back(std::move(first));
  while (!failed() && take_op(",")) {
    const Token& t = peek();
    if (t.kind == Kind::kBlockEnd || t.kind == Kind::kOutputEnd || is_op(")")) break;
    node->kids.push_back(conditional ? expression() : or_expression());
  }
  return done(std::move(node));
}

NodePtr ExpressionParser::expression() {
  Nest nest(*this);
  auto value = or_expression();
  while (!failed() && take_name("if")) {
    auto node = make(Op::kConditional);
    node->kids.push_back(or_expression());
    node->kids.push_back(std::move(value));
    node->kids.push_back(take_name("else") ? expression() : nullptr);
    value = done(std::move(node));
  }
  return value;
}

NodePtr ExpressionParser::or_expression() {
  auto left = and_expression();
  while (!failed() && take_name("or")) left = binary(Op::kOr, std::move(left), and_expression());
  return left;
}

NodePtr ExpressionParser::and_expression() {
  auto left = not_expression();
  while (!failed() && take_name("and")) left = binary(Op::kAnd, std::move(left), not_expression());
  return left;
}

NodePtr ExpressionParser::not_expression() {
  Nest nest(*this);
  if (!take_name("not")) return comparison();
  auto node = make(Op::kNot);
  if (!failed()) node->kids.push_back(not_expression());
  return done(std::move(node));
}

NodePtr ExpressionParser::comparison() {
  auto first = sum();
  NodePtr node;
  while (!failed()) {
    std::string op;
    if (peek().kind == Kind::kOperator && (peek().text == "==" || peek().text == "!=" || peek().text == "<" ||
                                           peek().text == "<=" || peek().text == ">" || peek().text == ">=")) {
      op = next().text;
    } else if (take_name("in")) {
      op = "in";
    } else if (is_name("not") && second().kind == Kind::kName && second().text == "in") {
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

NodePtr ExpressionParser::sum() {
  auto left = concatenation();
  while (!failed() && (is_op("+") || is_op("-"))) {
    const Op op = next().text == "+" ? Op::kAdd : Op::kSubtract;
    left = binary(op, std::move(left), concatenation());
  }
  return left;
}

NodePtr ExpressionParser::concatenation() {
  auto left = product();
  while (!failed() && take_op("~")) left = binary(Op::kConcat, std::move(left), product());
  return left;
}

NodePtr ExpressionParser::product() {
  auto left = power();
  while (!failed() && (is_op("*") || is_op("/") || is_op("//") || is_op("%"))) {
    const std::string text = next().text;
    const Op op = text == "*" ? Op::kMultiply : text == "/" ? Op::kDivide : text == "//" ? Op::kFloorDivide : Op::kModulo;
    left = binary(op, std::move(left), power());
  }
  return left;
}

NodePtr ExpressionParser::power() {
  auto left = unary(true);
  while (!failed() && take_op("**")) left = binary(Op::kPower, std::move(left), unary(true));
  return left;
}

NodePtr ExpressionParser::unary(bool with_filters) {
  Nest nest(*this);
  NodePtr node;
  if (is_op("-") || is_op("+")) {
    const Op op = next().text == "-" ? Op::kNegative : Op::kPositive;
    auto sign = make(op);
    if (!failed()) sign->kids.push_back(unary(false));
    node = done(std::move(sign));
  } else {
    node = postfix(primary());
  }
  return with_filters ? filters(std::move(node)) : std::move(node);
}

NodePtr ExpressionParser::primary() {
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

NodePtr ExpressionParser::name_or_constant() {
  const std::string name = next().text;
  if (name == "true" || name == "True") return constant(Value(true));
  if (name == "false" || name == "False") return constant(Value(false));
  if (name == "none" || name == "None") return constant(Value::none());
  return make(Op::kName, name);
}

NodePtr ExpressionParser::parenthesis() {
  if (take_op(")")) return make(Op::kTuple);
  auto node = tuple_or_expression();
  expect_op(")");
  return node;
}

NodePtr ExpressionParser::list() {
  auto node = make(Op::kList);
  while (!failed() && !is_op("]")) {
    if (!node->kids.empty()) expect_op(",");
    if (is_op("]")) break;
    node->kids.push_back(expression());
  }
  expect_op("]");
  return done(std::move(node));
}

NodePtr ExpressionParser::dict() {
  auto node = make(Op::kDict);
  while (!failed() && !is_op("}")) {
    if (!node->kids.empty()) expect_op(",");
    if (is_op("}")) break;
    node->kids.push_back(expression());
    expect_op(":");
    node->kids.push_back(expression());
  }
  expect_op("}");
  return done(std::move(node));
}

NodePtr ExpressionParser::postfix(NodePtr node) {
  while (!failed()) {
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

NodePtr ExpressionParser::subscript(NodePtr object) {
  NodePtr parts[3];
  bool slice = false;
  for (size_t i = 0; i < 3 && !failed(); ++i) {
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

void ExpressionParser::arguments(Node& node) {
  expect_op("(");
  bool first = true;
  while (!failed() && !is_op(")")) {
    if (!first) expect_op(",");
    first = false;
    if (is_op(")")) break;
    if (is_op("*") || is_op("**")) fail("* and ** arguments are not supported");
    if (peek().kind == Kind::kName && second().kind == Kind::kOperator && second().text == "=") {
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

NodePtr ExpressionParser::call(NodePtr function) {
  auto node = make(Op::kCall);
  node->kids.push_back(std::move(function));
  arguments(*node);
  return done(std::move(node));
}

NodePtr ExpressionParser::filters(NodePtr node) {
  while (!failed()) {
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

NodePtr ExpressionParser::filter(NodePtr input) {
  auto node = make(Op::kFilter, identifier());
  node->kids.push_back(std::move(input));
  if (is_op("(")) arguments(*node);
  return done(std::move(node));
}

NodePtr ExpressionParser::test(NodePtr input) {
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

}  // namespace retort::jinja
