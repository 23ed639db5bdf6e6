// Any bytes as the body of a request: read or refused, by every reader of bodies. The first byte says which.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "serve/api_request.h"

using namespace retort::serve;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      if (const auto r = parse_completion_request(body, {}); r.ok() && (r->prompts.empty() || r->choices < 1 || r->max_tokens < 0)) std::abort();
      break;
    case 1:
      if (const auto r = parse_chat_request(body, {}); r.ok() && (!r->messages.is_array() || r->messages.empty())) std::abort();
      break;
    case 2: (void)parse_tokenize_request(body); break;
    case 3: (void)parse_detokenize_request(body); break;
    case 4:
      if (const auto r = parse_slot_file_request(body); r.ok() && (r->find('/') != std::string::npos || (*r)[0] == '.')) std::abort();
      break;
  }
  return 0;
}
