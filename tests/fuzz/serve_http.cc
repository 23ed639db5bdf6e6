// Any bytes on a connection: the same requests however they are cut, and no more of a body than the limit.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "serve/http_message.h"

using namespace retort::serve;

namespace {

constexpr HttpLimits kLimits{.head_bytes = 2000, .headers = 20, .body_bytes = 1000};

// What was read, and how it ended. `step`: bytes that arrive at once.
std::string read_all(const std::string& bytes, size_t step) {
  HttpParser parser(kLimits);
  std::string input, out;
  for (size_t at = 0; at < bytes.size(); at += step) {
    input += bytes.substr(at, step);
    HttpParser::State state;
    while ((state = parser.feed(input)) == HttpParser::State::kDone) {
      const HttpRequest& r = parser.request();
      if (r.body.size() > kLimits.body_bytes || r.headers.size() > kLimits.headers) std::abort();
      out += r.method + " " + r.path + "?" + r.query + "\n" + r.body + (r.keep_alive ? "\nkeep\n" : "\nclose\n");
      parser.reset();
      if (input.empty()) break;
    }
    if (state == HttpParser::State::kBad) return out + std::to_string(parser.error_status());
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  // A head that is too long is seen at another byte when it comes in pieces: compare what is within the limit.
  const std::string whole = read_all(bytes, bytes.size() + 1);
  if (bytes.size() < kLimits.head_bytes && read_all(bytes, 1) != whole) std::abort();
  return 0;
}
