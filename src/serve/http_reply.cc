// Answers, written by whoever handles a request.
#include "serve/http_connection.h"
#include "serve/http_message.h"

namespace retort::serve {
namespace {

constexpr size_t kManyBytes = 1 << 20;  // an answer that waits for its turn where many such are in memory

}  // namespace

void put(const std::shared_ptr<HttpConnection>& c, std::string_view data, bool over, bool limited) {
  {
    std::lock_guard lock(c->mutex);
    if (c->gone) return;
    if (c->out.size() == c->sent) c->progress = Clock::now();
    if (limited && c->out.size() - c->sent + data.size() > c->lag_bytes) {
      c->close_after = c->over = c->gone = true;  // too slow a reader is cut off
      c->out.clear();
      c->sent = 0;
    } else {
      c->out += data;
      c->over = c->over || over;
    }
    c->unsent.set(int64_t(c->out.size()));
    if (over) c->on_gone = nullptr;
    if (std::exchange(c->flagged, true)) return;
  }
  c->waker->wake(c);
}

HttpReply::HttpReply(std::shared_ptr<HttpConnection> connection, bool head_only) : connection_(std::move(connection)), head_only_(head_only) {}

HttpReply::~HttpReply() {
  if (over_) return;
  if (!begun_) {
    send(500, "application/json", R"({"error":{"code":500,"message":"no answer was made","type":"server_error"}})");
    return;
  }
  {
    std::lock_guard lock(connection_->mutex);
    connection_->close_after = true;  // a stream without its end must not look whole
  }
  put(connection_, "", true, false);
}

void HttpReply::send(int status, std::string_view content_type, std::string_view body) {
  if (body.size() > kManyBytes && connection_->waker->unsent + int64_t(body.size()) > connection_->unsent_bytes) {
    add_header("Retry-After", "1");
    return send(503, "application/json", R"({"error":{"code":503,"message":"too many large answers wait to be taken","type":"unavailable_error"}})");
  }
  begun_ = over_ = true;
  bool keep, http10;
  {
    std::lock_guard lock(connection_->mutex);
    keep = connection_->keep_alive;
    http10 = connection_->http10;
  }
  std::string out = http_head(status, content_type, headers_, (long long)(body.size()), keep, http10);
  if (!head_only_) out += body;
  put(connection_, out, true, false);
}

void HttpReply::begin_stream(std::string_view content_type) {
  begun_ = true;
  bool keep, http10;
  {
    std::lock_guard lock(connection_->mutex);
    http10 = connection_->http10;
    connection_->stream = true;
    connection_->chunked = !http10;
    if (http10) connection_->keep_alive = false;
    keep = connection_->keep_alive;
  }
  put(connection_, http_head(200, content_type, headers_, -1, keep, http10), false, false);
}

void HttpReply::write(std::string_view data) {
  if (data.empty() || head_only_) return;
  put(connection_, connection_->chunked ? http_chunk(data) : std::string(data), false, true);
}

void HttpReply::end() {
  over_ = true;
  put(connection_, connection_->chunked && !head_only_ ? http_chunk("") : std::string(), true, false);
}

bool HttpReply::gone() const {
  std::lock_guard lock(connection_->mutex);
  return connection_->gone;
}

void HttpReply::on_gone(std::function<void()> call) {
  {
    std::lock_guard lock(connection_->mutex);
    if (!connection_->gone) {
      connection_->on_gone = std::move(call);
      return;
    }
  }
  call();
}

}  // namespace retort::serve
