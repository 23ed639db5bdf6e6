#include "serve/page.h"

#include "base/sha256.h"

namespace retort::serve {
namespace {

std::string base64_of_hex(const std::string& hex) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t at = 0; at < hex.size(); at += 6) {  // three bytes, four digits
    const std::string part = hex.substr(at, 6);
    const unsigned long bits = std::stoul(part, nullptr, 16) << (4 * (6 - part.size()));
    for (size_t digit = 0; digit < 4; ++digit) out += digit * 3 < part.size() * 2 ? kDigits[bits >> (18 - 6 * digit) & 63] : '=';
  }
  return out;
}

// Of the text between the only <TAG> and its end, to the byte: that is what browsers hash.
std::string hash_of(std::string_view page, std::string_view begin, std::string_view end) {
  const size_t from = page.find(begin) + begin.size();
  return "'sha256-" + base64_of_hex(sha256_hex(page.substr(from, page.find(end, from) - from))) + "'";
}

}  // namespace

std::string page_policy(std::string_view page) {
  return cat("default-src 'none'; script-src ", hash_of(page, "<script type=\"module\">", "</script>"), "; style-src ",
             hash_of(page, "<style>", "</style>"), "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
}

void answer_page(HttpReply& reply) {
  static const std::string policy = page_policy(kChatPage);
  reply.add_header("Content-Security-Policy", policy);
  reply.add_header("X-Content-Type-Options", "nosniff");
  reply.add_header("Referrer-Policy", "no-referrer");
  reply.add_header("Cross-Origin-Opener-Policy", "same-origin");
  reply.add_header("Cache-Control", "no-cache");
  reply.send(200, "text/html; charset=utf-8", kChatPage);
}

}  // namespace retort::serve
