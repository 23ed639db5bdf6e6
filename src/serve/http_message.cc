#include "serve/http_message.h"

#include <algorithm>
#include <cstdio>

#include "base/error.h"

namespace retort::serve {
namespace {

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }
std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = lower(c);
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Digits alone, at most 15 of them.
bool read_number(std::string_view text, int base, size_t& out) {
  if (text.empty() || text.size() > 15) return false;
  out = 0;
  for (const char c : text) {
    const char l = lower(c);
    const int digit = l >= '0' && l <= '9' ? l - '0' : base == 16 && l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
    if (digit < 0) return false;
    out = out * size_t(base) + size_t(digit);
  }
  return true;
}

// A comma-separated list, such as Connection's, has this word.
bool lists(std::string_view value, std::string_view word) {
  const std::string all = lower(value);
  std::string_view rest = all;
  while (!rest.empty()) {
    const size_t comma = std::min(rest.find(','), rest.size());
    if (trimmed(rest.substr(0, comma)) == word) return true;
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return false;
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

std::string_view HttpRequest::query_field(std::string_view name) const {
  std::string_view rest = query;
  while (!rest.empty()) {
    const std::string_view field = rest.substr(0, rest.find('&'));
    const size_t equals = field.find('=');
    if (equals != std::string_view::npos && field.substr(0, equals) == name) return field.substr(equals + 1);
    rest.remove_prefix(std::min(field.size() + 1, rest.size()));
  }
  return {};
}

void HttpParser::reset() { *this = HttpParser(limits_); }

HttpParser::State HttpParser::bad(int status, std::string message) {
  error_status_ = status;
  error_ = std::move(message);
  return state_ = State::kBad;
}

HttpParser::State HttpParser::feed(std::string& input) {
  std::string_view rest = input;
  begun_ = begun_ || !rest.empty();
  while (state_ != State::kDone && state_ != State::kBad) {
    const State before = state_;
    const size_t bytes_before = rest.size();
    step(rest);
    if (state_ == before && rest.size() == bytes_before) break;
  }
  input.erase(0, input.size() - rest.size());  // once: a body may come in chunks of a byte
  return state_;
}

// Takes what the state is about from the front of `input`; nothing where more must come first.
void HttpParser::step(std::string_view& input) {
  switch (state_) {
    case State::kHead: read_head(input); break;
    case State::kBody:
    case State::kChunk: {
      const size_t count = std::min(left_, input.size());
      request_.body.append(input.substr(0, count));
      input.remove_prefix(count);
      left_ -= count;
      if (left_ == 0) state_ = state_ == State::kBody ? State::kDone : State::kChunkEnd;
      break;
    }
    case State::kChunkSize: read_chunk_size(input); break;
    case State::kChunkEnd:
      if (input.size() < 2) break;
      if (input.substr(0, 2) != "\r\n") {
        bad(400, "a chunk of the body is longer than it says");
        break;
      }
      input.remove_prefix(2);
      state_ = State::kChunkSize;
      break;
    case State::kTrailer: {
      const size_t end = input.find("\r\n");
      if (end == std::string_view::npos ? input.size() > limits_.head_bytes : (trailer_bytes_ += end + 2) > limits_.head_bytes) {
        bad(431, "the trailer of the body is too long");
        break;
      }
      if (end == std::string_view::npos) break;
      input.remove_prefix(end + 2);
      if (end == 0) state_ = State::kDone;  // trailer fields are read over
      break;
    }
    case State::kDone:
    case State::kBad: break;
  }
}

HttpParser::State HttpParser::read_head(std::string_view& input) {
  // Empty lines before a request are passed over.
  input.remove_prefix(std::min(input.find_first_not_of("\r\n"), input.size()));
  const size_t end = input.find("\r\n\r\n");
  if (end == std::string_view::npos ? input.size() > limits_.head_bytes : end > limits_.head_bytes) {
    return bad(431, cat("the request's head is longer than ", limits_.head_bytes, " bytes"));
  }
  if (end == std::string_view::npos) return state_;
  const std::string_view head = input.substr(0, end);
  input.remove_prefix(end + 4);
  head_read_ = true;
  return parse_head(head);
}

HttpParser::State HttpParser::parse_head(std::string_view head) {
  if (head.find('\0') != std::string_view::npos) return bad(400, "a zero byte in the request's head");
  bool first = true;
  while (!head.empty() || first) {
    const size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 2, head.size()));
    if (line.find('\n') != std::string_view::npos || line.find('\r') != std::string_view::npos) return bad(400, "a stray end of line in the head");
    if ((first ? parse_request_line(line) : parse_header(line)) == State::kBad) return state_;
    first = false;
  }
  return choose_body();
}

HttpParser::State HttpParser::parse_request_line(std::string_view line) {
  const size_t a = line.find(' '), b = line.rfind(' ');
  if (a == std::string_view::npos || a == b) return bad(400, "the first line is no 'METHOD /path HTTP/1.1'");
  const std::string_view target = line.substr(a + 1, b - a - 1), version = line.substr(b + 1);
  request_.method = line.substr(0, a);
  if (!is_token(request_.method)) return bad(400, "the first line is no 'METHOD /path HTTP/1.1'");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return bad(version.substr(0, 5) == "HTTP/" ? 505 : 400, "only HTTP/1.1 is spoken here");
  if (target.empty() || target[0] != '/' || std::any_of(target.begin(), target.end(), [](char c) { return uint8_t(c) <= ' ' || c == 127; })) {
    return bad(400, "the request's target is no path");
  }
  const size_t question = std::min(target.find('?'), target.size());
  request_.path = target.substr(0, question);
  request_.query = target.substr(std::min(question + 1, target.size()));
  request_.http10 = version == "HTTP/1.0";
  return state_;
}

HttpParser::State HttpParser::parse_header(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return bad(400, "a header line that is no 'Name: value'");  // folded ones too
  if (request_.headers.size() == limits_.headers) return bad(431, cat("more than ", limits_.headers, " headers"));
  request_.headers.emplace_back(lower(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
  return state_;
}

HttpParser::State HttpParser::choose_body() {
  const auto hosts = std::count_if(request_.headers.begin(), request_.headers.end(), [](const auto& h) { return h.first == "host"; });
  if (hosts > 1) return bad(400, "two Host headers");  // RFC 9112, 3.2
  const std::string_view connection = request_.header("connection");
  request_.keep_alive = request_.http10 ? lists(connection, "keep-alive") : !lists(connection, "close");
  std::string_view length;
  bool chunked = false;
  for (const auto& [name, value] : request_.headers) {
    if (name == "content-length") {
      if (!length.empty() && length != value) return bad(400, "two lengths of one body");
      length = value;
      if (length.empty()) return bad(400, "Content-Length is empty");
    }
    if (name == "transfer-encoding") {
      if (chunked || lower(value) != "chunked") return bad(501, "the only transfer encoding read here is chunked");
      chunked = true;
    }
  }
  if (chunked && (!length.empty() || request_.http10)) return bad(400, "two lengths of one body");
  expects_continue_ = !request_.http10 && lower(request_.header("expect")) == "100-continue";
  if (chunked) return state_ = State::kChunkSize;
  if (length.empty()) return state_ = State::kDone;
  if (!read_number(length, 10, left_)) return bad(length.size() > 15 ? 413 : 400, "Content-Length is no number that fits");
  if (left_ > most_body_bytes()) return bad(413, cat("the body has ", left_, " bytes; at most ", most_body_bytes(), " are taken"));
  return state_ = left_ > 0 ? State::kBody : State::kDone;
}

HttpParser::State HttpParser::read_chunk_size(std::string_view& input) {
  const size_t end = input.find("\r\n");
  if (end == std::string_view::npos) return input.size() > 256 ? bad(400, "a chunk without its size") : state_;
  const std::string_view line = input.substr(0, end);
  const std::string_view digits = line.substr(0, line.find(';'));
  if (end > 256 || line.find('\n') != std::string_view::npos || !read_number(digits, 16, left_)) return bad(400, "a chunk without its size");
  input.remove_prefix(end + 2);
  if (left_ > most_body_bytes() - request_.body.size()) return bad(413, cat("at most ", most_body_bytes(), " bytes of body are taken"));
  return state_ = left_ > 0 ? State::kChunk : State::kTrailer;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    size_t code;
    if (text[i] == '%' && i + 2 < text.size() && read_number(text.substr(i + 1, 2), 16, code)) {
      out += char(code);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

const char* http_reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
  }
  return "Error";
}

std::string http_head(int status, std::string_view content_type, const std::vector<HttpHeader>& headers, long long length, bool keep_alive,
                      bool http10) {
  std::string out = cat("HTTP/1.1 ", status, " ", http_reason(status), "\r\n");
  if (!content_type.empty()) out += cat("Content-Type: ", content_type, "\r\n");
  if (length >= 0) out += cat("Content-Length: ", length, "\r\n");
  else if (!http10) out += "Transfer-Encoding: chunked\r\n";
  for (const auto& [name, value] : headers) out += cat(name, ": ", value, "\r\n");
  out += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return out;
}

std::string http_chunk(std::string_view data) {
  char size[24];
  std::snprintf(size, sizeof size, "%zx\r\n", data.size());
  return std::string(size).append(data).append("\r\n");
}

}  // namespace retort::serve
