// A place in a template's tokens, and nodes made there: what both halves of the parser stand on.
//
// Layer: io. One object per parsing. The first error stays; after it every token is the end, so that all loops finish.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/jinja_ast.h"

namespace retort::jinja {

class TokenCursor {
 protected:
  using Kind = Token::Kind;

  explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // Counts how deep functions of the parser stand in one another.
  struct Nest {
    explicit Nest(TokenCursor& c) : cursor(c) {
      if (++cursor.nesting_ > kMaxNesting) cursor.fail("nested too deep");
    }
    ~Nest() { --cursor.nesting_; }
    TokenCursor& cursor;
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
  // The token after the next one.
  const Token& second() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool failed() const { return error_.has_value(); }
  const Error& error() const { return *error_; }

 private:
  static constexpr int kMaxNodeDepth = 300;
  static constexpr int kMaxNesting = 100;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  std::optional<Error> error_;
};

}  // namespace retort::jinja
