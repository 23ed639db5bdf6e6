#include "serve/api_request.h"

#include <algorithm>
#include <limits>

#include "io/json_fields.h"

namespace retort::serve {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMostStops = 32, kLongestStop = 1024, kMostBiases = 1 << 16;
constexpr int kMostLogprobs = 20;

// Chat requests are read once more as ordered_json, whose objects look through all their keys for each.
constexpr JsonLimits kBodyLimits = {.values = size_t(1) << 22, .key_work = size_t(1) << 27};

Result<json> parse_body(std::string_view body) { return parse_json_object("the request", body, kBodyLimits); }

// An optional field within bounds.
Status read_number(const JsonFields& in, const char* key, double least, double most, double& out) {
  if (!in.has(key)) return {};
  RETORT_TRY(const double value, in.number(key));
  if (!(value >= least && value <= most)) return in.bad("'", key, "' is ", value, "; expected ", least, " to ", most);
  out = value;
  return {};
}

template <class Int>
Status read_integer(const JsonFields& in, const char* key, int least, int most, Int& out) {
  if (!in.has(key)) return {};
  RETORT_TRY(const int value, in.integer(key));
  if (value < least || value > most) return in.bad("'", key, "' is ", value, "; expected ", least, " to ", most);
  out = Int(value);
  return {};
}

Status read_flag(const JsonFields& in, const char* key, bool& out) {
  RETORT_TRY(out, in.boolean_or(key, out));
  return {};
}

// Any 64 bits; a negative one, as llama.cpp's clients send it, means one of our choice.
Status read_seed(const JsonFields& in, std::optional<uint64_t>& out) {
  if (!in.has("seed")) return {};
  const json& value = in.at("seed");
  if (!value.is_number_integer()) return in.bad("'seed' is no whole number of at most 64 bits");
  if (value.is_number_unsigned()) out = value.get<uint64_t>();
  else if (value.get<int64_t>() >= 0) out = uint64_t(value.get<int64_t>());
  return {};
}

Status read_stops(const JsonFields& in, std::vector<std::string>& out) {
  if (!in.has("stop")) return {};
  const json& value = in.at("stop");
  if (value.is_string()) {
    out.push_back(value.get<std::string>());
  } else if (value.is_array() && std::all_of(value.begin(), value.end(), [](const json& s) { return s.is_string(); })) {
    for (const json& s : value) out.push_back(s.get<std::string>());
  } else {
    return in.bad("'stop' is neither text nor a list of texts");
  }
  std::erase(out, std::string());
  if (out.size() > kMostStops) return in.bad("'stop' has ", out.size(), " texts; at most ", kMostStops, " are taken");
  for (const auto& stop : out) {
    if (stop.size() > kLongestStop) return in.bad("'stop' has a text of ", stop.size(), " bytes; at most ", kLongestStop, " are taken");
  }
  return {};
}

// {"token id": what is added to its logit}
Status read_biases(const JsonFields& in, std::vector<std::pair<int, float>>& out) {
  if (!in.has("logit_bias")) return {};
  const json& value = in.at("logit_bias");
  if (!value.is_object()) return in.bad("'logit_bias' is no object of token ids and numbers");
  if (value.size() > kMostBiases) return in.bad("'logit_bias' has ", value.size(), " entries; at most ", kMostBiases, " are taken");
  for (const auto& [key, bias] : value.items()) {
    const bool id = !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!id) return in.bad("'logit_bias' has the key '", key.substr(0, 40), "', which is no token id");
    if (!bias.is_number() || !(bias.get<double>() >= -100 && bias.get<double>() <= 100)) {
      return in.bad("'logit_bias' of token ", key, " is no number from -100 to 100");
    }
    // OpenAI's servers ban a token at -100; added alone, that would not outweigh every logit.
    out.emplace_back(std::stoi(key), bias.get<double>() <= -100 ? -1e9f : float(bias.get<double>()));
  }
  return {};
}

Status read_sampling(const JsonFields& in, SamplingOptions& out) {
  RETORT_RETURN_IF_ERROR(read_number(in, "temperature", 0, 100, out.temperature));
  RETORT_RETURN_IF_ERROR(read_number(in, "top_p", 0, 1, out.top_p));
  RETORT_RETURN_IF_ERROR(read_number(in, "min_p", 0, 1, out.min_p));
  RETORT_RETURN_IF_ERROR(read_integer(in, "top_k", -1, std::numeric_limits<int>::max(), out.top_k));
  out.top_k = std::max(out.top_k, 0);  // vLLM's clients say -1 for off
  RETORT_RETURN_IF_ERROR(read_number(in, "repeat_penalty", 0.01, 100, out.repeat_penalty));
  RETORT_RETURN_IF_ERROR(read_number(in, "repetition_penalty", 0.01, 100, out.repeat_penalty));
  RETORT_RETURN_IF_ERROR(read_integer(in, "repeat_last_n", 0, 1 << 20, out.repeat_last_n));
  RETORT_RETURN_IF_ERROR(read_number(in, "presence_penalty", -2, 2, out.presence_penalty));
  RETORT_RETURN_IF_ERROR(read_number(in, "frequency_penalty", -2, 2, out.frequency_penalty));
  return read_biases(in, out.logit_bias);
}

// What would change the answer and is not there is refused, never passed over.
Status refuse_unsupported(const JsonFields& in) {
  for (const char* key : {"grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"}) {
    if (in.has(key)) return in.bad("'", key, "' is not supported: this server cannot bind the answer to a grammar");
  }
  // llama.cpp's further samplers, which its clients send switched off.
  struct Sampler {
    const char* key;
    double off;
  };
  for (const Sampler& sampler : {Sampler{"mirostat", 0}, {"typical_p", 1}, {"xtc_probability", 0}, {"dry_multiplier", 0}, {"dynatemp_range", 0}}) {
    RETORT_TRY(const double value, in.number_or(sampler.key, sampler.off));
    if (value != sampler.off) return in.bad("'", sampler.key, "' is not supported; leave it out, or say ", sampler.off, ", which is off");
  }
  if (in.has("suffix") && in.at("suffix") != "") return in.bad("'suffix' is not supported: the models of this server only continue");
  if (in.has("best_of")) {
    RETORT_TRY(const int best_of, in.integer("best_of"));
    RETORT_TRY(const int n, in.integer_or("n", 1));
    if (best_of != n) return in.bad("'best_of' is not supported; leave it out, or give the value of 'n'");
  }
  return {};
}

Status read_format(const JsonFields& in, bool& json) {
  if (!in.has("response_format")) return {};
  RETORT_TRY(const JsonFields format, in.object("response_format"));
  RETORT_TRY(const std::string type, format.text("type"));
  json = type == "json_object";
  if (json || type == "text") return {};
  return in.bad("'response_format' of type '", type.substr(0, 40), "' is not supported; there are: text, json_object");
}

Status read_shared(const JsonFields& in, const ApiDefaults& defaults, ApiRequest& out) {
  constexpr int kMost = std::numeric_limits<int>::max();
  RETORT_RETURN_IF_ERROR(refuse_unsupported(in));
  RETORT_RETURN_IF_ERROR(read_format(in, out.json));
  RETORT_TRY(out.model, in.text_or("model", ""));
  out.sampling = defaults.sampling;
  RETORT_RETURN_IF_ERROR(read_sampling(in, out.sampling));
  RETORT_RETURN_IF_ERROR(read_seed(in, out.seed));
  RETORT_RETURN_IF_ERROR(read_integer(in, "n", 1, defaults.most_choices, out.choices));
  for (const char* key : {"n_predict", "max_tokens", "max_completion_tokens"}) {
    int64_t count = out.max_tokens;
    RETORT_RETURN_IF_ERROR(read_integer(in, key, -1, kMost, count));
    out.max_tokens = count < 0 ? kMost : count;  // llama.cpp's clients say -1 for no limit
  }
  RETORT_RETURN_IF_ERROR(read_stops(in, out.stops));
  RETORT_RETURN_IF_ERROR(read_flag(in, "ignore_eos", out.ignore_eos));
  RETORT_RETURN_IF_ERROR(read_flag(in, "stream", out.stream));
  if (in.has("stream_options")) {
    RETORT_TRY(const JsonFields options, in.object("stream_options"));
    RETORT_TRY(out.include_usage, options.boolean_or("include_usage", false));
  }
  RETORT_RETURN_IF_ERROR(read_integer(in, "id_slot", -1, kMost, out.slot));
  return read_flag(in, "cache_prompt", out.cache_prompt);
}

Result<std::vector<int>> read_tokens(const JsonFields& in, const char* key, const json& list) {
  std::vector<int> out;
  out.reserve(list.size());
  for (const json& id : list) {
    if (!id.is_number_integer() || (id.is_number_unsigned() ? id.get<uint64_t>() > uint64_t(std::numeric_limits<int>::max()) : id.get<int64_t>() < 0)) {
      return in.bad("'", key, "[", out.size(), "]' is ", id.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 40), ", which is no token id");
    }
    out.push_back(id.get<int>());
  }
  return out;
}

// A text, a list of token ids, or a list of either.
Status read_prompts(const JsonFields& in, const ApiDefaults& defaults, std::vector<Prompt>& out) {
  if (!in.has("prompt")) return in.bad("'prompt' is missing");
  const json& value = in.at("prompt");
  if (value.is_string()) {
    out.emplace_back(value.get<std::string>());
    return {};
  }
  if (!value.is_array() || value.empty()) return in.bad("'prompt' is neither text, nor a list of token ids, nor a list of these");
  if (value[0].is_number()) {
    RETORT_TRY(auto ids, read_tokens(in, "prompt", value));
    out.emplace_back(std::move(ids));
    return {};
  }
  if (value.size() > defaults.most_prompts) return in.bad("'prompt' has ", value.size(), " prompts; at most ", defaults.most_prompts, " are taken at once");
  for (const json& prompt : value) {
    if (prompt.is_string()) {
      out.emplace_back(prompt.get<std::string>());
    } else if (prompt.is_array()) {
      RETORT_TRY(auto ids, read_tokens(in, "prompt", prompt));
      out.emplace_back(std::move(ids));
    } else {
      return in.bad("'prompt' has an entry that is neither text nor a list of token ids");
    }
  }
  return {};
}

// A content of parts becomes their text; what is no text is refused.
Status flatten_content(const JsonFields& in, size_t index, ordered_json& message) {
  auto& content = message["content"];
  if (content.is_string()) return {};
  const auto where = cat("'messages[", index, "].content'");
  if (content.is_null()) {  // an assistant's calls may stand alone
    if (message["role"] == "assistant" && message.contains("tool_calls")) return {};
    return in.bad(where, " is missing; text is expected");
  }
  if (!content.is_array()) return in.bad(where, " is neither text nor a list of parts");
  std::string text;
  for (const ordered_json& part : content) {
    const bool is_text = part.is_object() && part.contains("type") && part["type"] == "text" && part.contains("text") && part["text"].is_string();
    if (!is_text) return in.bad(where, " has a part that is no text; this server reads text alone");
    text += part["text"].get<std::string>();
  }
  content = text;
  return {};
}

}  // namespace

Result<CompletionRequest> parse_completion_request(std::string_view body, const ApiDefaults& defaults) {
  RETORT_TRY(const json object, parse_body(body));
  const JsonFields in(object, "the request");
  CompletionRequest out;
  RETORT_RETURN_IF_ERROR(read_shared(in, defaults, out));
  RETORT_RETURN_IF_ERROR(read_prompts(in, defaults, out.prompts));
  RETORT_RETURN_IF_ERROR(read_flag(in, "echo", out.echo));
  RETORT_RETURN_IF_ERROR(read_integer(in, "logprobs", 0, kMostLogprobs, out.top_logprobs));
  if (out.choices * int(out.prompts.size()) > defaults.most_choices * 2) {
    return in.bad("'n' times the number of prompts is ", out.choices * int(out.prompts.size()), "; at most ", defaults.most_choices * 2, " are made at once");
  }
  if (out.slot >= 0 && out.prompts.size() > 1) return in.bad("'id_slot' goes with one prompt");
  return out;
}

Result<ChatRequest> parse_chat_request(std::string_view body, const ApiDefaults& defaults) {
  RETORT_TRY(const json object, parse_body(body));
  const JsonFields in(object, "the request");
  ChatRequest out;
  out.max_tokens = defaults.chat_max_tokens;
  RETORT_RETURN_IF_ERROR(read_shared(in, defaults, out));
  if (!in.has("messages") || !in.at("messages").is_array() || in.at("messages").empty()) {
    return in.bad("'messages' is no list of at least one message");
  }
  // Again, with keys in the client's order: templates print tools.
  ordered_json ordered = ordered_json::parse(body, nullptr, /*allow_exceptions=*/false);
  out.messages = std::move(ordered["messages"]);
  size_t index = 0;
  for (ordered_json& message : out.messages) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return in.bad("'messages[", index, "]' is no object with a role");
    }
    RETORT_RETURN_IF_ERROR(flatten_content(in, index, message));
    ++index;
  }
  if (in.has("tools")) {
    if (!in.at("tools").is_array()) return in.bad("'tools' is no list");
    if (!in.at("tools").empty()) out.tools = std::move(ordered["tools"]);
  }
  if (in.has("tool_choice") && in.at("tool_choice") != "auto" && in.at("tool_choice") != "none") {
    return in.bad("'tool_choice' is not supported beyond auto and none: this server cannot bind the answer to a grammar");
  }
  if (in.has("chat_template_kwargs")) {
    if (!in.at("chat_template_kwargs").is_object()) return in.bad("'chat_template_kwargs' is no object");
    out.template_fields = std::move(ordered["chat_template_kwargs"]);
  }
  RETORT_RETURN_IF_ERROR(read_flag(in, "add_generation_prompt", out.add_generation_prompt));
  bool logprobs = false;
  RETORT_RETURN_IF_ERROR(read_flag(in, "logprobs", logprobs));
  int top = 0;
  RETORT_RETURN_IF_ERROR(read_integer(in, "top_logprobs", 0, kMostLogprobs, top));
  if (top > 0 && !logprobs) return in.bad("'top_logprobs' goes with 'logprobs': true");
  if (logprobs) out.top_logprobs = top;
  return out;
}

Result<TokenizeRequest> parse_tokenize_request(std::string_view body) {
  RETORT_TRY(const json object, parse_body(body));
  const JsonFields in(object, "the request");
  TokenizeRequest out;
  const char* key = in.has("content") ? "content" : "prompt";
  RETORT_TRY(out.text, in.text(key));
  RETORT_RETURN_IF_ERROR(read_flag(in, "add_special", out.add_special));
  RETORT_RETURN_IF_ERROR(read_flag(in, "add_special_tokens", out.add_special));
  RETORT_RETURN_IF_ERROR(read_flag(in, "parse_special", out.parse_special));
  RETORT_RETURN_IF_ERROR(read_flag(in, "with_pieces", out.with_pieces));
  return out;
}

Result<std::vector<int>> parse_detokenize_request(std::string_view body) {
  RETORT_TRY(const json object, parse_body(body));
  const JsonFields in(object, "the request");
  if (!in.has("tokens") || !in.at("tokens").is_array()) return in.bad("'tokens' is no list of token ids");
  return read_tokens(in, "tokens", in.at("tokens"));
}

Result<std::string> parse_slot_file_request(std::string_view body) {
  RETORT_TRY(const json object, parse_body(body));
  const JsonFields in(object, "the request");
  RETORT_TRY(const std::string name, in.text("filename"));
  const bool plain = !name.empty() && name.size() <= 128 && name[0] != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
  });
  if (!plain) return in.bad("'filename' is no plain file name: letters, digits, '.', '-' and '_', not beginning with '.'");
  return name;
}

}  // namespace retort::serve
