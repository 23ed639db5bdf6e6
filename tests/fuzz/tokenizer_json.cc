// Any bytes as tokenizer.json: the first line is a text to encode, the rest is the file. Encoding decodes again to valid UTF-8.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "io/tokenizer.h"

using namespace retort;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t newline = std::min(input.find('\n'), input.size());
  const std::string text = input.substr(0, std::min<size_t>(newline, 400));
  const auto tokenizer = Tokenizer::from_json(input.substr(std::min(newline + 1, input.size())), "");
  if (!tokenizer.ok()) return 0;
  const auto ids = tokenizer->encode_lossy(text);
  if (!ids.ok()) return 0;
  if (!utf8::is_valid(tokenizer->decode(*ids))) std::abort();
  TextStream stream({"stop"});
  for (int32_t id : *ids) {
    if (!utf8::is_valid(stream.push(tokenizer->token_bytes(id)))) std::abort();
  }
  const auto files = tokenizer->to_json();
  const auto again = Tokenizer::from_json(files.tokenizer_json, files.tokenizer_config_json);
  if (!again.ok()) std::abort();
  const auto same = again->encode_lossy(text);
  if (!same.ok() || *same != *ids) std::abort();
  return 0;
}
