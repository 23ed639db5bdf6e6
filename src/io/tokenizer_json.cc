// tokenizer.json and tokenizer_config.json, read and written.
#include "io/tokenizer_json_fields.h"
#include "io/tokenizer_spec.h"

namespace retort {

using nlohmann::json;

namespace {

constexpr size_t kMaxFile = size_t(256) << 20;
constexpr uint64_t kMaxId = 1 << 21;

Status read_vocabulary(const json& model, TokenizerSpec& spec) {
  const json* vocab = json_member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return invalid("tokenizer.json: model.vocab: an object is expected");
  for (const auto& [token, id] : vocab->items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxId) {
      return invalid("tokenizer.json: model.vocab['", token, "']: an id below ", kMaxId, " is expected");
    }
    const size_t i = id.get<size_t>();
    if (i >= spec.tokens.size()) spec.tokens.resize(i + 1);
    if (!spec.tokens[i].empty()) {
      return invalid("tokenizer.json: model.vocab: '", spec.tokens[i], "' and '", token, "' have the same id ", i);
    }
    spec.tokens[i] = token;
  }
  if (spec.tokens.empty()) return invalid("tokenizer.json: model.vocab: empty");
  return {};
}

// Both spellings: "left right" and ["left", "right"].
Status read_merges(const json& model, TokenizerSpec& spec) {
  RETORT_TRY(const json* merges, json_array(model, "merges", "tokenizer.json: model"));
  spec.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const json& m = (*merges)[i];
    if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
      spec.merges.emplace_back(m[0].get<std::string>(), m[1].get<std::string>());
      continue;
    }
    const std::string line = m.is_string() ? m.get<std::string>() : "";
    const size_t space = line.find(' ');
    if (space == std::string::npos || space == 0 || line.find(' ', space + 1) != std::string::npos) {
      return invalid("tokenizer.json: model.merges[", i, "]: \"left right\" or [\"left\", \"right\"] is expected");
    }
    spec.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return {};
}

Status read_model(const json& root, TokenizerSpec& spec) {
  const json* model = json_member(root, "model");
  if (model == nullptr || !model->is_object()) return invalid("tokenizer.json: model: an object is expected");
  const std::string where = "tokenizer.json: model";
  RETORT_TRY(const std::string type, json_string_or_empty(*model, "type", where));
  if (!type.empty() && type != "BPE") return invalid(where, ".type: '", type, "' is not supported; BPE is");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    RETORT_TRY(const std::string value, json_string_or_empty(*model, key, where));
    if (!value.empty()) return invalid(where, ".", key, ": '", value, "' is not supported; only an empty one is");
  }
  if (const json* dropout = json_member(*model, "dropout"); dropout != nullptr && !dropout->is_null() && *dropout != 0.0) {
    return invalid(where, ".dropout: not supported, as the ids would be random; null is expected");
  }
  RETORT_TRY(spec.model_unk, json_string_or_empty(*model, "unk_token", where));
  RETORT_TRY(spec.byte_fallback, json_bool(*model, "byte_fallback", false, where));
  RETORT_TRY(spec.fuse_unk, json_bool(*model, "fuse_unk", false, where));
  RETORT_TRY(spec.ignore_merges, json_bool(*model, "ignore_merges", false, where));
  RETORT_RETURN_IF_ERROR(read_vocabulary(*model, spec));
  return read_merges(*model, spec);
}

Status read_added(const json& root, TokenizerSpec& spec) {
  const json* list = json_member(root, "added_tokens");
  if (list == nullptr || list->is_null()) return {};
  if (!list->is_array()) return invalid("tokenizer.json: added_tokens: an array is expected");
  for (size_t i = 0; i < list->size(); ++i) {
    const json& entry = (*list)[i];
    const std::string where = cat("tokenizer.json: added_tokens[", i, "]");
    AddedToken token;
    RETORT_TRY(token.content, json_string(entry, "content", where));
    const json* id = json_member(entry, "id");
    if (id == nullptr || !id->is_number_unsigned() || id->get<uint64_t>() >= kMaxId) {
      return invalid(where, ".id: an id below ", kMaxId, " is expected");
    }
    token.id = id->get<int32_t>();
    RETORT_TRY(token.single_word, json_bool(entry, "single_word", false, where));
    RETORT_TRY(token.lstrip, json_bool(entry, "lstrip", false, where));
    RETORT_TRY(token.rstrip, json_bool(entry, "rstrip", false, where));
    RETORT_TRY(token.special, json_bool(entry, "special", false, where));
    RETORT_TRY(token.normalized, json_bool(entry, "normalized", !token.special, where));
    if (!token.content.empty()) spec.added.push_back(std::move(token));
  }
  return {};
}

// A special token is a string, or an object with `content`.
Result<std::string> config_token(const json& config, const char* key) {
  const json* value = json_member(config, key);
  if (value != nullptr && value->is_object()) return json_string(*value, "content", cat("tokenizer_config.json: ", key));
  return json_string_or_empty(config, key, "tokenizer_config.json");
}

// One template, or a list of named ones of which "default" counts.
Result<std::string> config_template(const json& config) {
  const json* value = json_member(config, "chat_template");
  if (value == nullptr || !value->is_array()) return json_string_or_empty(config, "chat_template", "tokenizer_config.json");
  for (const json& entry : *value) {
    const json* name = json_member(entry, "name");
    if (name != nullptr && *name == "default") return json_string(entry, "template", "tokenizer_config.json: chat_template");
  }
  return std::string();
}

Status read_config(const std::string& text, TokenizerSpec& spec) {
  const json config = json::parse(text, nullptr, false);
  if (!config.is_object()) return invalid("tokenizer_config.json: not a JSON object");
  RETORT_TRY(spec.bos, config_token(config, "bos_token"));
  RETORT_TRY(spec.eos, config_token(config, "eos_token"));
  RETORT_TRY(spec.unk, config_token(config, "unk_token"));
  RETORT_TRY(spec.pad, config_token(config, "pad_token"));
  RETORT_TRY(spec.chat_template, config_template(config));
  RETORT_TRY(spec.clean_up_spaces, json_bool(config, "clean_up_tokenization_spaces", false, "tokenizer_config.json"));
  return {};
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_json(const std::string& text, const std::string& config) {
  if (text.size() > kMaxFile) return invalid("tokenizer.json: ", text.size(), " bytes; at most ", kMaxFile, " are read");
  if (config.size() > kMaxFile) return invalid("tokenizer_config.json: ", config.size(), " bytes; at most ", kMaxFile, " are read");
  const json root = json::parse(text, nullptr, false);
  if (!root.is_object()) return invalid("tokenizer.json: not a JSON object");
  TokenizerSpec spec;
  RETORT_RETURN_IF_ERROR(read_model(root, spec));
  RETORT_RETURN_IF_ERROR(read_added(root, spec));
  spec.normalizer = root.value("normalizer", json());
  spec.pre_tokenizer = root.value("pre_tokenizer", json());
  spec.post_processor = root.value("post_processor", json());
  spec.decoder = root.value("decoder", json());
  if (!config.empty()) RETORT_RETURN_IF_ERROR(read_config(config, spec));
  return spec;
}

TokenizerFiles write_tokenizer_json(const TokenizerSpec& spec) {
  json vocab = json::object(), merges = json::array(), added = json::array();
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (!spec.tokens[id].empty()) vocab.emplace(spec.tokens[id], id);  // of equal texts the first id counts
  }
  for (const auto& [left, right] : spec.merges) merges.push_back({left, right});
  json decoder = json::object();
  for (const auto& t : spec.added) {
    json entry = {{"content", t.content}, {"single_word", t.single_word}, {"lstrip", t.lstrip},
                  {"rstrip", t.rstrip}, {"normalized", t.normalized}, {"special", t.special}};
    decoder[std::to_string(t.id)] = entry;
    entry["id"] = t.id;
    added.push_back(std::move(entry));
  }
  const auto text_or_null = [](const std::string& s) { return s.empty() ? json() : json(s); };
  const json model = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", text_or_null(spec.model_unk)},
                      {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                      {"fuse_unk", spec.fuse_unk}, {"byte_fallback", spec.byte_fallback},
                      {"ignore_merges", spec.ignore_merges}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}};
  const json root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", std::move(added)},
                     {"normalizer", spec.normalizer}, {"pre_tokenizer", spec.pre_tokenizer},
                     {"post_processor", spec.post_processor}, {"decoder", spec.decoder}, {"model", model}};
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"added_tokens_decoder", std::move(decoder)},
                 {"clean_up_tokenization_spaces", spec.clean_up_spaces}};
  const std::pair<const char*, const std::string*> names[] = {{"bos_token", &spec.bos}, {"eos_token", &spec.eos},
      {"unk_token", &spec.unk}, {"pad_token", &spec.pad}, {"chat_template", &spec.chat_template}};
  for (const auto& [key, value] : names) {
    if (!value->empty()) config[key] = *value;
  }
  return {root.dump(), config.dump(2) + "\n"};
}

}  // namespace retort
