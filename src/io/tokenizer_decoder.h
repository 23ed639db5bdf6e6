// Decoders of tokenizer.json: token texts to text.
//
// Layer: io. Thread-safe after construction.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"

namespace retort {

class TokenDecoder {
 public:
  static Result<TokenDecoder> make(const nlohmann::json& json, const std::string& where = "decoder");
  std::string decode(std::vector<std::string> tokens) const;
  // What one token adds to running text, as bytes. At the very start of a text decode() may drop a space that this keeps.
  std::string bytes(const std::string& token) const;

 private:
  enum class Kind { kByteLevel, kReplace, kByteFallback, kFuse, kStrip, kMetaspace };
  struct Step {
    Kind kind{};
    std::string a, b;
    size_t start = 0, stop = 0;
    bool prepended = false;
  };
  Status add(const std::string& type, const nlohmann::json& json, const std::string& where);
  static void apply(const Step& step, std::vector<std::string>& tokens);
  std::vector<Step> steps_;
  bool none_ = false;
};

}  // namespace retort
