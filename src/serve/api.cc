#include "serve/api.h"

#include <algorithm>
#include <filesystem>
#include <random>

#include "base/format.h"
#include "serve/page.h"

namespace retort::serve {

using nlohmann::ordered_json;

namespace {

uint64_t random_word() {
  std::random_device device;
  return uint64_t(device()) << 32 | device();
}

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

ordered_json or_null(const std::string& text) { return text.empty() ? ordered_json() : ordered_json(text); }

// Digits and dots, or a bracketed address: no name server can make that mean another machine.
bool is_address(std::string_view name) {
  return !name.empty() && (name.front() == '[' || name.find_first_not_of("0123456789.") == std::string_view::npos);
}

std::string_view name_of(std::string_view host) {
  const size_t bracket = host.find(']');  // of an IPv6 address
  return host.substr(0, host.find(':', bracket == std::string_view::npos ? 0 : bracket));
}

}  // namespace

bool is_key(const std::vector<std::string>& keys, std::string_view given) {
  bool found = false;
  for (const std::string& key : keys) {
    unsigned differs = key.size() != given.size();
    for (size_t i = 0; i < given.size(); ++i) differs |= unsigned(uint8_t(given[i]) ^ uint8_t(key.empty() ? 0 : key[i % key.size()]));
    found |= differs == 0;
  }
  return found;
}

bool is_own_host(const ApiOptions& options, std::string_view host) {
  const std::string_view name = name_of(host);
  if (host.empty() || is_address(name) || name == "localhost" || name == options.host || options.cors_origin == "*") return true;
  const size_t slashes = options.cors_origin.find("://");
  return slashes != std::string::npos && host == std::string_view(options.cors_origin).substr(slashes + 3);
}

bool is_allowed_origin(const ApiOptions& options, std::string_view origin, std::string_view host) {
  if (options.cors_origin == "*" || (!options.cors_origin.empty() && origin == options.cors_origin)) return true;
  return !host.empty() && is_own_host(options, host) && origin == "http://" + std::string(host);
}

struct Api::Route {
  const char* method;
  const char* path;
  void (Api::*handle)(const HttpRequest&, const std::shared_ptr<HttpReply>&);
};

const std::vector<Api::Route>& Api::routes() {
  static const std::vector<Route> list = {
      {"GET", "/", &Api::page},
      {"GET", "/health", &Api::health},
      {"GET", "/v1/health", &Api::health},
      {"GET", "/v1/models", &Api::models},
      {"GET", "/v1/models/", &Api::model},  // what follows is its name
      {"GET", "/models", &Api::models},
      {"GET", "/props", &Api::props},
      {"GET", "/metrics", &Api::metrics},
      {"POST", "/v1/completions", &Api::completions},
      {"POST", "/v1/chat/completions", &Api::chat},
      {"POST", "/chat/completions", &Api::chat},
      {"POST", "/tokenize", &Api::tokenize},
      {"POST", "/detokenize", &Api::detokenize},
      {"GET", "/tokenizer_info", &Api::tokenizer_info},
      {"POST", "/apply-template", &Api::apply_template},
      {"GET", "/slots", &Api::slots},
      {"POST", "/slots/", &Api::slot_action},  // what follows is the slot's number
      {"GET", "/slots/", &Api::get_state},     // and /state
      {"PUT", "/slots/", &Api::put_state},
  };
  return list;
}

Api::Api(ApiOptions options, Scheduler& scheduler, Tokenizer tokenizer, std::string identity)
    : options_(std::move(options)), scheduler_(scheduler), tokenizer_(std::move(tokenizer)), identity_(std::move(identity)),
      template_(ChatTemplate::of(tokenizer_)), next_id_(random_word()), next_seed_(random_word()) {}

void Api::handle_loading(const HttpRequest& request, HttpReply& reply, bool page) {
  if (page && request.path == "/" && request.method == "GET") return answer_page(reply);
  answer_error(reply, 503, "Loading model");
}

void Api::page(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  if (!options_.page) return answer_error(*reply, 404, "there is nothing at /: this server was started with --no-ui");
  answer_page(*reply);
}

bool Api::authorised(const HttpRequest& request) const {
  if (options_.keys.empty() || request.path == "/" || request.path == "/health" || request.path == "/v1/health") return true;
  std::string_view given = request.header("authorization");
  constexpr std::string_view kBearer = "bearer ";
  const bool bearer = given.size() >= kBearer.size() && std::equal(kBearer.begin(), kBearer.end(), given.begin(), [](char want, char has) {
    return want == (has >= 'A' && has <= 'Z' ? char(has - 'A' + 'a') : has);  // the scheme's name, RFC 9110
  });
  if (bearer) given.remove_prefix(kBearer.size());
  else given = request.header("x-api-key");
  return is_key(options_.keys, given);
}

const Api::Route* Api::find_route(const HttpRequest& request, std::string& others) {
  const std::string_view method = request.method == "HEAD" ? "GET" : std::string_view(request.method);
  for (const Route& route : routes()) {
    const std::string_view path = route.path;
    const bool matches = path.size() > 1 && path.back() == '/' ? request.path.compare(0, path.size(), path) == 0 : request.path == path;
    if (!matches) continue;
    if (method == route.method) return &route;
    others += (others.empty() ? "" : ", ") + std::string(route.method);
  }
  return nullptr;
}

bool Api::wants_body(const HttpRequest& head) const {
  const std::string_view origin = head.header("origin");
  std::string others;
  return (origin.empty() || is_allowed_origin(options_, origin, head.header("host"))) && authorised(head) && find_route(head, others) != nullptr;
}

void Api::handle(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  const std::string_view origin = request.header("origin");
  if (!origin.empty() && !is_allowed_origin(options_, origin, request.header("host"))) {
    return answer_error(*reply, 403, "pages of that origin may not ask; see --cors-origin");
  }
  if (!options_.cors_origin.empty()) {
    reply->add_header("Access-Control-Allow-Origin", options_.cors_origin);
    reply->add_header("Vary", "Origin");
    if (request.method == "OPTIONS") {
      reply->add_header("Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS");
      reply->add_header("Access-Control-Allow-Headers", "Authorization, Content-Type");
      return reply->send(204, "", "");
    }
  }
  if (!authorised(request)) return answer_error(*reply, 401, "a wrong key, or none: this server wants 'Authorization: Bearer KEY'");
  std::string other;
  if (const Route* route = find_route(request, other)) return (this->*route->handle)(request, reply);
  if (other.empty()) return answer_error(*reply, 404, cat("there is nothing at ", request.path.substr(0, 100)));
  reply->add_header("Allow", other);
  answer_error(*reply, 405, cat(request.path.substr(0, 100), " is asked with ", other));
}

void Api::health(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) { answer_json(*reply, {{"status", "ok"}}); }

ordered_json Api::model_json() const {
  const ModelConfig& config = scheduler_.model().config();
  return {{"id", options_.model_name},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "retort"},
          {"max_model_len", scheduler_.options().context},
          {"meta", {{"n_vocab", config.vocab_size}, {"n_ctx_train", config.context_length}, {"n_embd", config.width}}}};
}

void Api::models(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  answer_json(*reply, {{"object", "list"}, {"data", ordered_json::array({model_json()})}});
}

void Api::model(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
  const std::string name = percent_decoded(request.path.substr(std::string_view("/v1/models/").size()));
  if (name != options_.model_name) return answer_error(*reply, 404, cat("there is no model '", name.substr(0, 100), "'; there is: ", options_.model_name));
  answer_json(*reply, model_json());
}

void Api::props(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  const SamplingOptions& s = options_.defaults.sampling;
  answer_json(*reply, {{"model_alias", options_.model_name},
                       {"total_slots", scheduler_.options().parallel},
                       {"max_state_bytes", options_.state_bytes},
                       {"chat_template", tokenizer_.chat_template()},
                       {"default_generation_settings",
                        {{"n_ctx", scheduler_.options().context},
                         {"params",
                          {{"temperature", s.temperature},
                           {"top_k", s.top_k},
                           {"top_p", s.top_p},
                           {"min_p", s.min_p},
                           {"repeat_penalty", s.repeat_penalty},
                           {"repeat_last_n", s.repeat_last_n},
                           {"max_tokens", options_.defaults.chat_max_tokens}}}}}});
}

void Api::metrics(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  const SchedulerCounts c = scheduler_.counts();
  std::string out;
  const auto add = [&](const char* type, const char* name, const char* help, auto value) {
    out += cat("# HELP retort:", name, " ", help, "\n# TYPE retort:", name, " ", type, "\nretort:", name, " ", value, "\n");
  };
  const auto exact = [](double value) {  // a counter of many hours must still move
    char text[40];
    std::snprintf(text, sizeof text, "%.15g", value);
    return std::string(text);
  };
  const auto rate = [](int64_t count, double seconds) { return seconds > 0 ? double(count) / seconds : 0; };
  add("counter", "prompt_tokens_total", "Prompt tokens computed.", c.prompt_tokens);
  add("counter", "prompt_seconds_total", "Seconds of passes, the prompts' share.", exact(c.prompt_seconds));
  add("counter", "tokens_predicted_total", "Tokens made.", c.made_tokens);
  add("counter", "tokens_predicted_seconds_total", "Seconds of passes, the made tokens' share.", exact(c.made_seconds));
  add("counter", "n_decode_total", "Passes that made tokens.", c.passes);
  add("counter", "prefix_cache_queries_total", "Prompt tokens of requests that might continue an earlier state.", c.looked_up_tokens);
  add("counter", "prefix_cache_hits_total", "Prompt tokens that were not computed again.", c.cached_tokens);
  add("counter", "prefix_cache_evicted_total", "States that made room for others.", c.cache.evicted);
  add("counter", "prefix_cache_refused_total", "States that were larger than the whole cache.", c.cache.refused);
  add("gauge", "prefix_cache_states", "States of prompts that are kept.", c.cache.states);
  add("gauge", "prefix_cache_bytes", "Bytes of those.", c.cache.bytes);
  add("counter", "spec_decode_num_drafts_total", "Times that tokens were guessed.", c.drafts);
  add("counter", "spec_decode_num_draft_tokens_total", "Guessed tokens.", c.drafted);
  add("counter", "spec_decode_num_accepted_tokens_total", "Guessed tokens that were right.", c.drafts_accepted);
  add("counter", "requests_finished_total", "Requests answered to their end.", c.finished);
  add("counter", "requests_cancelled_total", "Requests whose client went away, or that a shutdown ended.", c.cancelled);
  add("counter", "requests_refused_total", "Requests refused because too many waited.", c.refused);
  add("gauge", "n_busy_slots_per_decode", "Sequences that made a token per pass, on average.", c.passes > 0 ? double(c.decoding_rows) / double(c.passes) : 0);
  add("gauge", "prompt_tokens_seconds", "Prompt tokens per second of passes.", rate(c.prompt_tokens, c.prompt_seconds));
  add("gauge", "predicted_tokens_seconds", "Made tokens per second of passes.", rate(c.made_tokens, c.made_seconds));
  add("gauge", "requests_processing", "Sequences that run.", c.running);
  add("gauge", "requests_deferred", "Requests that wait for a slot.", c.waiting);
  reply->send(200, "text/plain; version=0.0.4; charset=utf-8", out);
}

GenerationRequest Api::generation(const ApiRequest& request, std::vector<int> prompt) {
  GenerationRequest out;
  out.prompt = std::move(prompt);
  out.sampling = request.sampling;
  out.seed = request.seed ? *request.seed : next_seed_.fetch_add(0x9e3779b97f4a7c15ull);
  out.choices = request.choices;
  out.max_tokens = request.max_tokens;
  out.stops = request.stops;
  out.ignore_eos = request.ignore_eos;
  out.json = request.json;
  out.top_logprobs = request.top_logprobs;
  out.slot = request.slot;
  out.cache = request.cache_prompt;
  out.deadline = Clock::now() + std::chrono::milliseconds(int64_t(1000 * options_.request_seconds));
  return out;
}

void Api::completions(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto request = parse_completion_request(http.body, options_.defaults);
  if (!request.ok()) return answer_error(*reply, 400, request.error().message);
  AnswerOptions answer;
  std::vector<GenerationRequest> generations;
  for (const Prompt& prompt : request->prompts) {
    std::vector<int> ids;
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      const auto encoded = tokenizer_.encode(*text);
      if (!encoded.ok()) return answer_error(*reply, 400, cat("the prompt: ", encoded.error().message));
      ids.assign(encoded->begin(), encoded->end());
      if (ids.empty() && tokenizer_.bos_id() >= 0) ids.push_back(tokenizer_.bos_id());
      if (request->echo) answer.echoes.push_back(*text);
    } else {
      ids = std::get<std::vector<int>>(prompt);
      if (request->echo) answer.echoes.push_back(tokenizer_.decode(ids));
    }
    generations.push_back(generation(*request, std::move(ids)));
    generations.back().prompt_logprobs = request->echo && request->top_logprobs >= 0;
  }
  submit(std::move(generations), *request, std::move(answer), reply);
}

Result<jinja::Rendered> Api::render(const ChatRequest& request) const {
  if (!template_.ok()) return invalid("the model has no chat template: ask /v1/completions");
  ChatOptions options;
  options.add_generation_prompt = request.add_generation_prompt;
  options.tools = request.tools;
  options.extra = request.template_fields;
  auto rendered = template_->apply(request.messages, options);
  if (!rendered.ok()) return invalid("the chat template: ", rendered.error().message);
  return rendered;
}

void Api::chat(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto request = parse_chat_request(http.body, options_.defaults);
  if (!request.ok()) return answer_error(*reply, 400, request.error().message);
  const auto prompt = render(*request);
  if (!prompt.ok()) return answer_error(*reply, 400, prompt.error().message);
  const auto ids = encode_chat(tokenizer_, *prompt);
  if (!ids.ok()) return answer_error(*reply, 400, ids.error().message);
  AnswerOptions answer;
  answer.chat = true;
  std::vector<GenerationRequest> generations;
  generations.push_back(generation(*request, std::vector<int>(ids->begin(), ids->end())));
  submit(std::move(generations), *request, std::move(answer), reply);
}

void Api::submit(std::vector<GenerationRequest> requests, const ApiRequest& request, AnswerOptions options, const std::shared_ptr<HttpReply>& reply) {
  options.stream = request.stream;
  options.include_usage = request.include_usage;
  options.logprobs = request.top_logprobs >= 0;
  options.choices = request.choices;
  options.id = cat(options.chat ? "chatcmpl-" : "cmpl-", hex(next_id_.fetch_add(1)));
  options.model = request.model.empty() ? options_.model_name : request.model;
  options.fingerprint = "fp_" + identity_.substr(0, 16);
  for (const GenerationRequest& r : requests) {
    if (const Status status = scheduler_.check(r); !status.ok()) return answer_error(*reply, 400, status.error().message);
    options.prompt_tokens.push_back(int64_t(r.prompt.size()));
  }
  const auto answer = std::make_shared<Answer>(std::move(options), tokenizer_, reply);
  std::vector<Scheduler::Job> jobs;
  for (size_t i = 0; i < requests.size(); ++i) {
    jobs.push_back({std::move(requests[i]), [answer, i](const GenerationUpdate& update) { answer->update(i, update); }});
  }
  const auto tickets = scheduler_.submit(std::move(jobs));
  if (tickets.refusal == Refusal::kFull) return answer_error(*reply, 429, "too many requests wait; try again later");
  if (tickets.refusal == Refusal::kStopping) return answer_error(*reply, 503, "the server is shutting down");
  answer->accepted();
  reply->on_gone([&scheduler = scheduler_, ids = tickets.ids] {
    for (const uint64_t id : ids) scheduler.cancel(id);
  });
}

void Api::tokenize(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto request = parse_tokenize_request(http.body);
  if (!request.ok()) return answer_error(*reply, 400, request.error().message);
  const auto ids = tokenizer_.encode(request->text, {.add_special = request->add_special, .parse_special = request->parse_special, .untrusted = {}});
  if (!ids.ok()) return answer_error(*reply, 400, ids.error().message);
  ordered_json tokens = ordered_json::array();
  for (const int32_t id : *ids) {
    if (request->with_pieces) tokens.push_back({{"id", id}, {"piece", tokenizer_.token_bytes(id)}});
    else tokens.push_back(id);
  }
  answer_json(*reply, {{"tokens", std::move(tokens)}, {"count", ids->size()}, {"max_model_len", scheduler_.options().context}});
}

void Api::detokenize(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto ids = parse_detokenize_request(http.body);
  if (!ids.ok()) return answer_error(*reply, 400, ids.error().message);
  for (const int id : *ids) {
    if (size_t(id) >= tokenizer_.size()) return answer_error(*reply, 400, cat("the request: token ", id, " is outside the vocabulary of ", tokenizer_.size()));
  }
  const std::string text = tokenizer_.decode(*ids);
  answer_json(*reply, {{"content", text}, {"prompt", text}});
}

void Api::tokenizer_info(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  const TokenizerSpec& spec = tokenizer_.spec();
  answer_json(*reply, {{"bos_token", or_null(spec.bos)},
                       {"eos_token", or_null(spec.eos)},
                       {"pad_token", or_null(spec.pad)},
                       {"unk_token", or_null(spec.unk)},
                       {"chat_template", or_null(spec.chat_template)},
                       {"vocab_size", tokenizer_.size()}});
}

void Api::apply_template(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto request = parse_chat_request(http.body, options_.defaults);
  if (!request.ok()) return answer_error(*reply, 400, request.error().message);
  const auto prompt = render(*request);
  if (!prompt.ok()) return answer_error(*reply, 400, prompt.error().message);
  answer_json(*reply, {{"prompt", prompt->text}});
}

void Api::slots(const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
  ordered_json out = ordered_json::array();
  for (const SlotInfo& slot : scheduler_.slots()) {
    out.push_back({{"id", slot.id},
                   {"n_ctx", scheduler_.options().context},
                   {"is_processing", slot.busy},
                   {"n_past", slot.tokens},
                   {"state_bytes", slot.state_bytes}});
  }
  answer_json(*reply, out);
}

void Api::slot_action(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto slot = slot_of_path(http.path, "");
  if (!slot) return answer_error(*reply, 404, cat("there is nothing at ", http.path.substr(0, 100)));
  const int id = *slot;
  const std::string_view action = http.query_field("action");
  ordered_json out = {{"id_slot", id}};
  Status status;
  if (action == "erase") {
    status = scheduler_.put_slot(id, std::nullopt);
  } else if (action == "stop") {
    status = scheduler_.end_slot(id);
  } else if (action != "save" && action != "restore") {
    status = invalid("the query has no action=save, action=restore, action=erase or action=stop");
  } else if (options_.slot_folder.empty()) {
    return answer_error(*reply, 501, "this server saves no slots: it was started without --slot-save-path");
  } else {
    status = action == "save" ? save_slot(id, http.body, out) : restore_slot(id, http.body, out);
  }
  if (!status.ok()) return answer_error(*reply, status.error().code == ErrorCode::kInvalidInput ? 400 : 500, status.error().message);
  answer_json(*reply, out);
}

Status Api::save_slot(int id, const std::string& body, ordered_json& out) {
  const auto started = Clock::now();
  RETORT_TRY(const std::string name, parse_slot_file_request(body));
  RETORT_TRY(const SavedState state, scheduler_.copy_slot(id));
  const std::string path = options_.slot_folder + "/" + name;
  if (const Status status = write_state_file(path, identity_, state.tokens, state.sequence); !status.ok()) {
    return io_error(name, ": the state could not be written");  // the reason names the folder
  }
  std::error_code ignored;
  out["filename"] = name;
  out["n_saved"] = state.tokens.size();
  out["n_written"] = uint64_t(std::filesystem::file_size(path, ignored));
  out["timings"] = {{"save_ms", 1000 * seconds_since(started)}};
  return {};
}

Status Api::restore_slot(int id, const std::string& body, ordered_json& out) {
  const auto started = Clock::now();
  RETORT_TRY(const std::string name, parse_slot_file_request(body));
  const std::string path = options_.slot_folder + "/" + name;
  auto state = read_state_file(path, identity_, scheduler_.model().layout());
  if (!state.ok()) {
    std::string message = state.error().message;
    if (const size_t at = message.find(path); at != std::string::npos) message.replace(at, path.size(), name);  // the folder is no client's business
    return invalid(message);
  }
  std::error_code ignored;
  out["filename"] = name;
  out["n_restored"] = state->tokens.size();
  out["n_read"] = uint64_t(std::filesystem::file_size(path, ignored));
  RETORT_RETURN_IF_ERROR(scheduler_.put_slot(id, std::move(*state)));
  out["timings"] = {{"restore_ms", 1000 * seconds_since(started)}};
  return {};
}

}  // namespace retort::serve
