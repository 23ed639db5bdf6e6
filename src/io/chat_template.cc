#include "io/chat_template.h"

namespace retort {

using nlohmann::ordered_json;

Result<ChatTemplate> ChatTemplate::parse(const std::string& source, const std::string& bos_token, const std::string& eos_token,
                                         const std::string& unk_token, const std::string& pad_token) {
  ChatTemplate out;
  RETORT_TRY(out.template_, jinja::Template::parse(source));
  out.tokens_ = ordered_json::object();
  const std::pair<const char*, const std::string*> tokens[] = {
      {"bos_token", &bos_token}, {"eos_token", &eos_token}, {"unk_token", &unk_token}, {"pad_token", &pad_token}};
  for (const auto& [name, token] : tokens) {
    if (!token->empty()) out.tokens_[name] = *token;
  }
  return out;
}

Result<ChatTemplate> ChatTemplate::of(const Tokenizer& tokenizer) {
  const TokenizerSpec& spec = tokenizer.spec();
  if (spec.chat_template.empty()) return invalid("the tokenizer has no chat template; `retort generate` continues plain text");
  return parse(spec.chat_template, spec.bos, spec.eos, spec.unk, spec.pad);
}

Result<jinja::Rendered> ChatTemplate::apply(const std::vector<ChatMessage>& messages, const ChatOptions& options) const {
  ordered_json list = ordered_json::array();
  for (const ChatMessage& m : messages) list.push_back({{"role", m.role}, {"content", m.content}});
  return apply(list, options);
}

Result<jinja::Rendered> ChatTemplate::apply(const ordered_json& messages, const ChatOptions& options) const {
  if (!messages.is_array() || messages.empty()) return invalid("messages: a list of at least one message is expected");
  ordered_json variables = tokens_;
  variables["tools"] = options.tools;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = options.add_generation_prompt;
  if (options.extra.is_object()) {
    for (const auto& [name, value] : options.extra.items()) variables[name] = value;
  }
  variables["messages"] = messages;
  jinja::RenderOptions render;
  render.untrusted = {"messages", "tools", "documents"};
  return template_.render(variables, render);
}

Result<std::vector<int32_t>> encode_chat(const Tokenizer& tokenizer, const jinja::Rendered& prompt) {
  EncodeOptions options;
  options.add_special = false;  // the template writes them
  options.untrusted = prompt.untrusted;
  return tokenizer.encode(prompt.text, options);
}

}  // namespace retort
