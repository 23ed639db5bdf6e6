// Pre-tokenizers and normalizers of tokenizer.json: text to the words that byte-pair encoding sees.
//
// Layer: io. Thread-safe after construction.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/unicode.h"

namespace retort {

class Normalizer {
 public:
  Normalizer() = default;
  // `where` names the component in errors.
  static Result<Normalizer> make(const nlohmann::json& json, const std::string& where = "normalizer");
  bool empty() const { return steps_.empty(); }
  std::string run(std::string_view text) const;

 private:
  enum class Kind { kForm, kPrepend, kReplace, kLowercase, kStrip };
  struct Step {
    Kind kind{};
    unicode::Form form = unicode::Form::kNfc;
    std::string a, b;  // prepend: a; replace: a by b
    bool left = false, right = false;
  };
  Status add(const std::string& type, const nlohmann::json& json, const std::string& where);
  std::vector<Step> steps_;
};

// A regular expression of a Split pre-tokenizer.
class SplitPattern {
 public:
  virtual ~SplitPattern() = default;
  // Finds the first match at or after `pos`; false when there is none.
  virtual Result<bool> find(std::string_view text, size_t pos, size_t& first, size_t& last) const = 0;
};
// Uses a hand-written matcher for the common ones, PCRE2 with our own Unicode classes for the rest.
Result<std::shared_ptr<const SplitPattern>> make_split_pattern(const std::string& regex, const std::string& where);
std::shared_ptr<const SplitPattern> make_literal_pattern(std::string text);

extern const char* const kGpt2Regex;
// What Llama 3 (digits "\p{N}{1,3}") and Qwen 2 (digits "\p{N}") use.
std::string llama3_regex(const std::string& digits);

class PreTokenizer {
 public:
  using Emit = std::function<void(std::string_view word)>;

  PreTokenizer() = default;
  static Result<PreTokenizer> make(const nlohmann::json& json, const std::string& where = "pre_tokenizer");
  // Words are raw bytes, to be looked up in a byte-level vocabulary.
  bool byte_level() const { return byte_level_; }
  // `at_start`: the text starts where the whole input starts.
  Status run(std::string_view text, bool at_start, const Emit& emit) const { return run_step(0, text, at_start, emit); }

 private:
  enum class Kind { kSplit, kDigits, kByteLevel, kMetaspace, kPunctuation, kWhitespaceSplit };
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    Kind kind{};
    std::shared_ptr<const SplitPattern> pattern;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    bool add_prefix_space = false;  // byte level
    bool individual = false;        // digits
    bool split = true;              // metaspace
    std::string replacement, prepend_scheme;
  };
  Status add(const std::string& type, const nlohmann::json& json, const std::string& where);
  Status add_split(const nlohmann::json& json, const std::string& where);
  Status add_metaspace(const nlohmann::json& json, const std::string& where);
  Status run_step(size_t index, std::string_view text, bool at_start, const Emit& emit) const;
  Status run_split(size_t index, std::string_view text, bool at_start, const Emit& emit) const;
  Status run_classes(size_t index, std::string_view text, bool at_start, const Emit& emit) const;
  Status run_metaspace(size_t index, std::string_view text, bool at_start, const Emit& emit) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// Replaces every occurrence; an empty `from` replaces nothing.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace retort
