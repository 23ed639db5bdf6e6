// Requests as token ids, as the harness's `hf` backend makes them.
//
// Layer: eval. Thread-safe.
#pragma once

#include <vector>

#include "eval/continuation_scores.h"
#include "eval/tasks/task.h"
#include "io/tokenizer.h"

namespace retort::harness {

// In front of a text: what the tokenizer itself adds, BOS where there is one, or nothing.
enum class AddBos { kAuto, kYes, kNo };

struct EncodingOptions {
  AddBos add_bos = AddBos::kAuto;
  int64_t max_length = 2048;  // tokens that the model sees at most
};

class RequestEncoder {
 public:
  RequestEncoder(Tokenizer tokenizer, EncodingOptions options);

  // Ids of a context followed by those that are scored: one for an ordinary request, one a window for a rolling one. `where` starts
  // error messages.
  Result<std::vector<Continuation>> encode(const Request& request, Kind kind, const std::string& where) const;

 private:
  Result<std::vector<int>> ids(std::string_view text) const;
  Result<int> prefix() const;
  Result<Continuation> pair(std::string_view context, std::string_view continuation) const;
  Result<std::vector<Continuation>> windows(std::string_view text) const;

  Tokenizer tokenizer_;
  EncodingOptions options_;
  int prefix_;               // what an empty context is: BOS, else EOS; -1: the tokenizer has neither
  std::string prefix_text_;
};

}  // namespace retort::harness
