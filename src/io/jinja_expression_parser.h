// Expressions of the template language, by recursive descent.
//
// Layer: io. One object per parsing.
#pragma once

#include "io/jinja_token_cursor.h"

namespace retort::jinja {

class ExpressionParser : protected TokenCursor {
 protected:
  using TokenCursor::TokenCursor;

  // What statements ask for. `conditional`: an "if" behind it belongs to it.
  NodePtr tuple_or_expression(bool conditional = true);
  NodePtr expression();
  NodePtr filter(NodePtr input);   // its name is next; a null input stands for the text of a block
  NodePtr filters(NodePtr node);   // | f, is t, and calls of what they give

 private:
  // Weakest first.
  NodePtr or_expression();
  NodePtr and_expression();
  NodePtr not_expression();
  NodePtr comparison();
  NodePtr sum();
  NodePtr concatenation();
  NodePtr product();
  NodePtr power();
  NodePtr unary(bool with_filters);
  NodePtr postfix(NodePtr node);
  NodePtr subscript(NodePtr object);
  NodePtr call(NodePtr function);
  void arguments(Node& node);
  NodePtr test(NodePtr input);
  // Operands.
  NodePtr primary();
  NodePtr name_or_constant();
  NodePtr parenthesis();
  NodePtr list();
  NodePtr dict();
};

}  // namespace retort::jinja
