// States as bytes: what a client fetches to keep, and brings back to this server or another one with the same model.
#include "serve/api.h"

namespace retort::serve {

std::optional<int> slot_of_path(std::string_view path, std::string_view end) {
  constexpr std::string_view kBegin = "/slots/";
  if (path.size() < kBegin.size() + end.size() || path.substr(path.size() - end.size()) != end) return std::nullopt;
  const std::string number(path.substr(kBegin.size(), path.size() - kBegin.size() - end.size()));
  if (number.empty() || number.size() > 6 || number.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return std::stoi(number);
}

// A state has the tokens of somebody's text in it. A page of another site whose name suddenly means this machine may not have it; who has a key
// is no such page.
void Api::get_state(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto slot = slot_of_path(http.path, "/state");
  if (!slot) return answer_error(*reply, 404, cat("there is nothing at ", http.path.substr(0, 100)));
  if (options_.keys.empty() && !is_own_host(options_, http.header("host"))) {
    return answer_error(*reply, 403, "states are given to who asks for this machine by its address or its --host; see --cors-origin");
  }
  const auto state = scheduler_.copy_slot(*slot);
  if (!state.ok()) return answer_error(*reply, 400, state.error().message);
  reply->add_header("Cache-Control", "no-store");
  reply->send(200, "application/octet-stream", state_content(identity_, state->tokens, state->sequence));
}

void Api::put_state(const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const auto slot = slot_of_path(http.path, "/state");
  if (!slot) return answer_error(*reply, 404, cat("there is nothing at ", http.path.substr(0, 100)));
  auto state = read_state(std::as_bytes(std::span(http.body)), "the state", identity_, scheduler_.model().layout());
  if (!state.ok()) return answer_error(*reply, 400, state.error().message);
  const int64_t tokens = state->sequence.position();
  if (const Status status = scheduler_.put_slot(*slot, std::move(*state)); !status.ok()) return answer_error(*reply, 400, status.error().message);
  answer_json(*reply, {{"id_slot", *slot}, {"n_restored", tokens}, {"n_read", http.body.size()}});
}

}  // namespace retort::serve
