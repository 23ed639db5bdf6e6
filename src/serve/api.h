// The endpoints: what OpenAI's clients, llama.cpp's clients, lm-eval and Prometheus ask for.
//
// Layer: serve. Thread-safe.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "io/chat_template.h"
#include "serve/answer.h"
#include "serve/api_request.h"
#include "serve/scheduler.h"

namespace retort::serve {

struct ApiOptions {
  std::string model_name;
  ApiDefaults defaults;
  std::vector<std::string> keys;   // empty: nobody needs one
  std::string slot_folder;         // where slots may be saved; empty: nowhere
  std::string cors_origin;         // of pages that may ask from a browser; *: all; empty: only those that this server sends itself
  std::string host;                // under which it is asked, besides the names of this machine's loopback
  double request_seconds = 600;    // from arrival to the end of the answer
  bool page = true;                // GET / is the chat page
  int64_t state_bytes = 128 << 20; // of a state that a client may bring
};

// Whether `given` is one of the keys; takes as long for a nearly right one as for a wrong one.
bool is_key(const std::vector<std::string>& keys, std::string_view given);

// Whether a browser that shows a page of `origin` may ask. Pages that lie about their address (a name that suddenly means 127.0.0.1) have
// a Host that is not ours.
bool is_allowed_origin(const ApiOptions& options, std::string_view origin, std::string_view host);
// Whether a request with this Host asks for us: by an address, a name of this machine's loopback, --host, or the host of --cors-origin. Browsers
// send no Origin with a GET of their own page, so this is what such a page cannot fake.
bool is_own_host(const ApiOptions& options, std::string_view host);

// The number in /slots/NUMBER and `end`.
std::optional<int> slot_of_path(std::string_view path, std::string_view end);

class Api {
 public:
  Api(ApiOptions options, Scheduler& scheduler, Tokenizer tokenizer, std::string identity);

  // For an HttpServer's workers.
  void handle(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  // Whether handle() would look at a body after this head: the key, the origin and the path are right.
  bool wants_body(const HttpRequest& head) const;
  // While there is no Api yet: the page, which waits, or 503 "Loading model".
  static void handle_loading(const HttpRequest& request, HttpReply& reply, bool page);

 private:
  struct Route;
  static const std::vector<Route>& routes();
  // Null where there is none; `others`: the methods that the path is asked with.
  static const Route* find_route(const HttpRequest& request, std::string& others);
  bool authorised(const HttpRequest& request) const;

  void page(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void health(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void models(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void model(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void props(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void metrics(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void completions(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void chat(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void tokenize(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void detokenize(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void tokenizer_info(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void apply_template(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void slots(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void slot_action(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void get_state(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  void put_state(const HttpRequest&, const std::shared_ptr<HttpReply>&);
  nlohmann::ordered_json model_json() const;
  Status save_slot(int id, const std::string& body, nlohmann::ordered_json& out);
  Status restore_slot(int id, const std::string& body, nlohmann::ordered_json& out);

  Result<jinja::Rendered> render(const ChatRequest& request) const;
  GenerationRequest generation(const ApiRequest& request, std::vector<int> prompt);
  void submit(std::vector<GenerationRequest> requests, const ApiRequest& request, AnswerOptions answer, const std::shared_ptr<HttpReply>& reply);

  const ApiOptions options_;
  Scheduler& scheduler_;
  const Tokenizer tokenizer_;
  const std::string identity_;
  Result<ChatTemplate> template_;
  std::atomic<uint64_t> next_id_, next_seed_;
};

}  // namespace retort::serve
