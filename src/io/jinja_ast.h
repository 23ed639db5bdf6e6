// Tokens and syntax tree of the template language.
//
// Layer: io. Constant after parsing.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/jinja_value.h"

namespace retort::jinja {

struct Token {
  enum class Kind { kText, kOutputBegin, kOutputEnd, kBlockBegin, kBlockEnd, kName, kInteger, kFloat, kString, kOperator, kEnd };
  Kind kind;
  std::string text;
  int line;
};
// Applies trim_blocks, lstrip_blocks and the signs of {%- -%} {%+ +%}; drops comments.
Result<std::vector<Token>> tokenize(std::string_view source);

enum class Op {
  // expressions
  kConst, kName, kList, kTuple, kDict, kNegative, kPositive, kNot, kAnd, kOr, kCompare, kConditional, kAttribute, kItem, kSlice,
  kCall, kFilter, kTest, kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower, kConcat,
  // statements
  kText, kOutput, kFor, kIf, kSet, kSetBlock, kMacro, kCallBlock, kFilterBlock, kWith, kGroup, kBreak, kContinue
};

struct Node;
using NodePtr = std::unique_ptr<Node>;

struct Node {
  Op op;
  int line = 0;
  int depth = 1;
  std::string name;                                   // name, attribute, filter, test, macro
  Value value;                                        // constant, literal text
  std::vector<NodePtr> kids;                          // operands; an absent one is null
  std::vector<std::pair<std::string, NodePtr>> named; // keyword arguments; parameters of a macro with defaults or null
  std::vector<std::string> operators;                 // of a comparison: == != < <= > >= in "not in"
  std::vector<std::vector<NodePtr>> bodies;           // if: one per condition, then else; for: body, else; others: one
};

struct TemplateBody {
  std::vector<NodePtr> nodes;
};

Result<TemplateBody> parse_template(std::string_view source);

inline Error template_error(int line, const std::string& message) { return invalid("chat template, line ", line, ": ", message); }

}  // namespace retort::jinja
