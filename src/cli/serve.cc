// retort serve MODEL: an HTTP server with OpenAI's and llama.cpp's endpoints, until ctrl-C.
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <thread>

#include <sys/resource.h>

#include "base/format.h"
#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "cli/flags.h"
#include "cli/open_model.h"
#include "cli/speculation_flags.h"
#include "serve/api.h"

namespace retort::cli {
namespace {

constexpr double kGraceSeconds = 10;  // for what runs when ctrl-C comes

// A stream is a descriptor; the usual soft limit is 1024.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

class Serve : public Command {
 public:
  void add_flags(CLI::App& app) override {
    add_model_flag(app, model_.path);
    add_runtime_flags(app, model_);
    app.add_option("--host", http_.host, "address to listen on")->capture_default_str();
    app.add_option("--port", http_.port, "port to listen on; 0 takes any that is free")->check(CLI::Range(0, 65535))->capture_default_str();
    app.add_option("-a,--alias", alias_, "the model's name in answers");
    app.add_option("--parallel", scheduler_.parallel, "sequences that run at the same time (-np)")->check(CLI::Range(1, 4096))->capture_default_str();
    app.add_option("-c,--ctx-size", context_, "tokens of a prompt and its answer together; 0 means no limit (default: the model's)")
        ->check(CLI::Range(0, 1 << 30));
    app.add_option("-b,--batch-size", scheduler_.prefill_rows, "prompt tokens per pass")->check(CLI::Range(1, 1 << 16))->capture_default_str();
    app.add_option("-n,--n-predict", defaults_.chat_max_tokens, "tokens per chat answer where the request does not say")
        ->check(CLI::Range(1, 1 << 30))->capture_default_str();
    add_sampling_flags(app, sampling_);
    add_speculation_flags(app, speculation_);
    app.add_option("--cache-ram", cache_mib_, "MiB of states kept for prompts that begin like earlier ones; 0 turns it off")
        ->check(CLI::Range(0, 1 << 24))->capture_default_str();
    app.add_option("--api-key", keys_, "a key that clients must send; may be given several times");
    app.add_option("--api-key-file", key_file_, "file with one key a line");
    app.add_option("--slot-save-path", slot_folder_, "folder in which clients may save and restore slots");
    app.add_flag("--ui,!--no-ui,--webui,!--no-webui", page_, "the chat page at / (on unless --no-ui)");
    app.add_option("--cors-origin", cors_, "origin of web pages that may ask, or * for all (default: none)");
    app.add_option("--queue", scheduler_.queue, "requests that may wait for a slot; more are answered with 429")->check(CLI::Range(0, 1 << 20))->capture_default_str();
    app.add_option("--max-connections", http_.connections, "open connections; more are answered with 503")->check(CLI::Range(1, 1 << 20))->capture_default_str();
    app.add_option("--max-body", max_body_, "bytes of a request's body at most")->check(CLI::Range(1 << 10, 1 << 30))->capture_default_str();
    app.add_option("--max-state", max_state_, "bytes of a state that a client may put into a slot")->check(CLI::Range(1 << 10, 1 << 30))->capture_default_str();
    app.add_option("--timeout", timeout_, "seconds from a request's arrival to the end of its answer")->check(CLI::Range(1, 1 << 20))->capture_default_str();
    app.add_option("--sse-ping-interval", http_.ping_seconds, "seconds of silence after which a stream gets a comment; 0: never")
        ->check(CLI::Range(0.0, 1e6))->capture_default_str();
  }

  Status run(const Context& context) override {
    RETORT_RETURN_IF_ERROR(require_model(model_.path));
    RETORT_TRY(defaults_.sampling, sampling_options(sampling_));
    RETORT_RETURN_IF_ERROR(read_keys());
    if (!cors_.empty() && cors_ != "*") {
      const size_t name = cors_.find("://");
      const bool origin = (cors_.starts_with("http://") || cors_.starts_with("https://")) && name + 3 < cors_.size() && cors_.find('/', name + 3) == std::string::npos;
      if (!origin) return invalid("--cors-origin ", cors_, ": expected an origin such as https://example.org, without a path, or *");
    }
    if (!slot_folder_.empty() && !std::filesystem::is_directory(slot_folder_)) {
      return invalid("--slot-save-path ", slot_folder_, ": not a folder");
    }
    raise_descriptor_limit();
    catch_interrupts();
    http_.limits.body_bytes = size_t(max_body_);
    http_.limits.put_bytes = size_t(max_state_);
    http_.buffered_bytes = std::max<int64_t>(http_.buffered_bytes, 2 * int64_t(max_state_));
    http_.unsent_bytes = std::max<int64_t>(http_.unsent_bytes, 2 * int64_t(max_state_));
    // Listens first: a port that is taken is said before the model is read, and who asks meanwhile learns that it is being read.
    std::atomic<serve::Api*> ready{nullptr};
    RETORT_TRY(auto http, serve::HttpServer::start(
                              http_,
                              [&](const serve::HttpRequest& request, std::shared_ptr<serve::HttpReply> reply) {
                                if (serve::Api* api = ready) api->handle(request, reply);
                                else serve::Api::handle_loading(request, *reply, page_);
                              },
                              serve::error_body, [&](const serve::HttpRequest& head) {
                                const serve::Api* api = ready;
                                return api != nullptr && api->wants_body(head);
                              }));
    RETORT_TRY(OpenedText opened, open_with_tokenizer(model_, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    scheduler_.context = context_.value_or(std::max(0, opened.model->config().context_length));
    RETORT_RETURN_IF_ERROR(add_speculation(opened));
    scheduler_.cache_bytes = int64_t(cache_mib_) << 20;
    scheduler_.warn = [](const std::string& text) { std::fprintf(stderr, "retort: warning: %s\n", text.c_str()); };
    serve::Scheduler scheduler(opened.model, *opened.pool, opened.engine, tokenizer, scheduler_);
    if (alias_.empty()) alias_ = std::filesystem::path(model_.path).lexically_normal().stem().string();
    serve::Api api({alias_, defaults_, keys_, slot_folder_, cors_, http_.host, double(timeout_), page_, max_state_}, scheduler, tokenizer, opened.model->identity());
    ready = &api;
    std::fprintf(stderr, "retort: %s is served at http://%s:%d after %s; ctrl-C ends\n", alias_.c_str(), http_.host.c_str(), http->port(),
                 format_duration(opened.load_seconds).c_str());
    while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::fprintf(stderr, "retort: ending; what runs has %d s, a second ctrl-C ends at once\n", int(kGraceSeconds));
    http->stop_accepting();
    scheduler.stop(Clock::now() + std::chrono::seconds(int(kGraceSeconds)));
    http->stop(2);
    return {};
  }

 private:
  // Guesses are the likeliest tokens: a choice's own sampler has to draw them, and draws no other more often.
  Status add_speculation(const OpenedText& opened) {
    RETORT_TRY(const auto drafts, open_drafts(speculation_, opened, opened.tokenizer));
    if (!drafts) return {};
    const SamplingOptions likeliest = with_tokens_alone({.temperature = 0, .top_k = 1, .top_p = 1, .min_p = 0}, opened);
    scheduler_.new_draft = [make = drafts->make, likeliest] { return make(likeliest, 0); };
    scheduler_.most_guesses = speculation_.most;
    return {};
  }

  Status read_keys() {
    if (!key_file_.empty()) {
      RETORT_TRY(const std::string text, read_text_file(key_file_));
      for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find_first_of("\r\n", at), text.size());
        if (end > at) keys_.push_back(text.substr(at, end - at));
        at = end + 1;
      }
      if (keys_.empty()) return invalid("--api-key-file ", key_file_, ": no key; one a line is expected");
    }
    for (const auto& key : keys_) {
      const bool sendable = !key.empty() && key.front() != ' ' && key.back() != ' ' && std::all_of(key.begin(), key.end(), [](char c) { return c >= ' ' && c < 127; });
      if (!sendable) {
        return invalid(key_file_.empty() ? "--api-key" : "--api-key-file " + key_file_,
                       ": a key that no header carries: it is empty, begins or ends with a space, or has a character that is not printable ASCII");
      }
    }
    return {};
  }

  ModelFlags model_;
  SamplingFlags sampling_;
  SpeculationFlags speculation_;
  serve::HttpOptions http_;
  serve::SchedulerOptions scheduler_;
  serve::ApiDefaults defaults_;
  std::string alias_, key_file_, slot_folder_, cors_;
  std::vector<std::string> keys_;
  std::optional<int> context_;
  int max_body_ = 16 << 20, max_state_ = 128 << 20, timeout_ = 600, cache_mib_ = 1024;
  bool page_ = true;
};

}  // namespace

std::unique_ptr<Command> make_serve() { return std::make_unique<Serve>(); }

}  // namespace retort::cli
