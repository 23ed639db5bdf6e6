// HTTP/1.1 requests from bytes as they arrive, and the bytes of responses. No sockets.
//
// Layer: serve. A HttpParser belongs to one thread at a time. RFC 9112; whatever two readers could understand in two ways (both kinds of
// length, folded headers, a bare LF in a chunk's size line) is refused.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace retort::serve {

struct HttpRequest {
  std::string method, path, query;  // the target's, not decoded
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  bool keep_alive = true, http10 = false;

  // The first of that name, or empty.
  std::string_view header(std::string_view name) const;
  // A field of the query, not decoded; empty when it is not there.
  std::string_view query_field(std::string_view name) const;
};

struct HttpLimits {
  size_t head_bytes = 32 << 10;  // request line and headers
  size_t headers = 100;
  size_t body_bytes = 16 << 20;
  size_t put_bytes = 16 << 20;   // of a body that is put: a file, of which nothing is parsed
};

class HttpParser {
 public:
  explicit HttpParser(HttpLimits limits) : limits_(limits) {}

  enum class State { kHead, kBody, kChunkSize, kChunk, kChunkEnd, kTrailer, kDone, kBad };
  // Reads bytes from the front of `input` and removes them, until the request is whole (kDone), wrong (kBad), or more is needed.
  State feed(std::string& input);
  State state() const { return state_; }
  // The client waits for "100 Continue" before it sends the body. True once.
  bool take_expects_continue() { return std::exchange(expects_continue_, false); }
  // The head is there and a body is still to come. True once.
  bool take_head() { return std::exchange(head_read_, false) && state_ != State::kDone && state_ != State::kBad; }
  // Nothing of a request has arrived.
  bool untouched() const { return state_ == State::kHead && !begun_; }

  HttpRequest& request() { return request_; }  // kDone; may be moved out
  int error_status() const { return error_status_; }
  const std::string& error() const { return error_; }
  // For the next request of the connection.
  void reset();

 private:
  void step(std::string_view& input);
  State bad(int status, std::string message);
  State read_head(std::string_view& input);
  State parse_head(std::string_view head);
  State parse_request_line(std::string_view line);
  State parse_header(std::string_view line);
  State choose_body();
  size_t most_body_bytes() const { return request_.method == "PUT" ? limits_.put_bytes : limits_.body_bytes; }
  State read_chunk_size(std::string_view& input);

  HttpLimits limits_;
  HttpRequest request_;
  State state_ = State::kHead;
  size_t left_ = 0;          // of the body, or of the chunk
  size_t trailer_bytes_ = 0;
  bool expects_continue_ = false, begun_ = false, head_read_ = false;
  int error_status_ = 0;
  std::string error_;
};

// %41 is A; what is no escape stays.
std::string percent_decoded(std::string_view text);

// Of the statuses that this server answers with.
const char* http_reason(int status);

struct HttpHeader {
  std::string name, value;
};

// Status line and headers with the empty line; `length` < 0: chunked, or until the connection closes for an HTTP/1.0 client.
std::string http_head(int status, std::string_view content_type, const std::vector<HttpHeader>& headers, long long length, bool keep_alive,
                      bool http10);
// A piece of a chunked body; of nothing: the end of the body.
std::string http_chunk(std::string_view data);

}  // namespace retort::serve
