// HTTP/1.1 on sockets: one thread waits for all connections, a few answer requests, and answers may be written from any thread.
//
// Layer: serve. Thread-safe. A connection costs a descriptor and its buffers, not a thread: thousands of streams are open at once.
//
// Bounds: connections, requests that wait for a worker, bytes of head and body and of all of them together, seconds until a request is whole, seconds without
// progress while an answer is written, bytes that a slow reader may lag behind, bytes of large answers that nobody has taken. Beyond them: 503 with Retry-After, 408, 413, 431, or
// the connection is closed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "serve/http_message.h"

namespace retort::serve {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                       // 0: any that is free
  int connections = 2048;
  int workers = 2;
  int waiting = 1024;                    // requests that are read and wait for a worker
  HttpLimits limits;
  int64_t buffered_bytes = 256 << 20;    // of all requests that are being read or wait for a worker, together
  int64_t unsent_bytes = 512 << 20;      // of all answers that clients have not taken, together, before a large one is refused
  double request_seconds = 30;           // from a request's first byte to its last
  double idle_seconds = 30;              // between requests of a connection
  double stall_seconds = 60;             // an answer of which the client takes nothing
  double ping_seconds = 30;              // comments in a silent event stream; 0: none
  size_t lag_bytes = 4 << 20;            // a stream's bytes that the client has not taken
};

class HttpConnection;

// Where one request is answered: once as a whole, or in pieces. Keep it for as long as the answer takes. When the last copy goes away
// without an answer, the client gets a 500.
class HttpReply {
 public:
  HttpReply(std::shared_ptr<HttpConnection> connection, bool head_only);
  ~HttpReply();
  HttpReply(const HttpReply&) = delete;
  HttpReply& operator=(const HttpReply&) = delete;

  // Added to whatever is answered.
  void add_header(std::string name, std::string value) { headers_.push_back({std::move(name), std::move(value)}); }
  void send(int status, std::string_view content_type, std::string_view body);
  // An event stream: begin, any number of writes, end.
  void begin_stream(std::string_view content_type);
  void write(std::string_view data);
  void end();
  // The client went away (or was too slow): nothing written any more arrives.
  bool gone() const;
  // Called once on the connections' thread if the client goes away before the answer is over, at once if it already has. Must not wait.
  void on_gone(std::function<void()> call);

 private:
  std::shared_ptr<HttpConnection> connection_;
  std::vector<HttpHeader> headers_;
  bool head_only_, begun_ = false, over_ = false;
};

class HttpServer {
 public:
  // By its head alone, on the connections' thread: is the request's body wanted? If not, the handler answers without it.
  using Admission = std::function<bool(const HttpRequest& head)>;
  // Called by a worker. May answer later, from elsewhere.
  using Handler = std::function<void(const HttpRequest&, std::shared_ptr<HttpReply>)>;
  // The body of an error that the server itself answers with.
  using ErrorBody = std::function<std::string(int status, const std::string& message)>;

  // Listens, and serves from then on.
  static Result<std::unique_ptr<HttpServer>> start(HttpOptions options, Handler handler, ErrorBody error_body, Admission admission = {});
  ~HttpServer();

  int port() const;
  int connections() const;
  // No more connections or requests; what is being answered goes on.
  void stop_accepting();
  // Ends every connection and thread, after what is still to be written has been taken, or after `seconds`.
  void stop(double seconds);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace retort::serve
