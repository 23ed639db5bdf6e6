#include "io/tokenizer_to_gguf.h"

#include <algorithm>
#include <unordered_map>

namespace retort {
namespace {

using nlohmann::json;

// One name per behaviour that tokenizer_gguf.cc knows; the other names there are synonyms.
constexpr const char* kPreNames[] = {"smollm", "gpt-2", "llama-bpe", "dbrx", "qwen2", "tekken"};

// Steps in order, with sequences opened and without what makes no difference to ids.
void flatten(const json& step, const char* list, json& out) {
  if (!step.is_object()) return;
  if (step.value("type", json()) == "Sequence" && step.contains(list) && step.at(list).is_array()) {
    for (const json& inner : step.at(list)) flatten(inner, list, out);
    return;
  }
  json plain = step;
  plain.erase("trim_offsets");
  if (plain.contains("use_regex") && plain.at("use_regex") == true) plain.erase("use_regex");  // the default
  out.push_back(std::move(plain));
}

json steps_of(const TokenizerSpec& spec) {
  json out = {{"normalizer", json::array()}, {"pre_tokenizer", json::array()}, {"ignore_merges", spec.ignore_merges}};
  flatten(spec.normalizer, "normalizers", out["normalizer"]);
  flatten(spec.pre_tokenizer, "pretokenizers", out["pre_tokenizer"]);
  return out;
}

// The steps that a reader takes for this word.
json steps_of_name(const char* name) {
  GgufVocabulary v;
  v.model = "gpt2";
  v.pre = name;
  v.tokens = {"a"};
  auto spec = spec_from_gguf(std::move(v));
  RETORT_CHECK(spec.ok(), name);
  return steps_of(*spec);
}

Result<std::string> pre_name(const TokenizerSpec& spec) {
  const json steps = steps_of(spec);
  for (const char* name : kPreNames) {
    if (steps_of_name(name) == steps) return std::string(name);
  }
  return invalid("the tokenizer's pre-tokenizer has no name in GGUF: ", steps.at("pre_tokenizer").dump(-1, ' ', true, json::error_handler_t::replace));
}

// SentencePiece: does a text start with a space of its own?
Result<bool> adds_space_prefix(const TokenizerSpec& spec) {
  const json steps = steps_of(spec);
  bool prefix = false;
  for (const json& step : steps.at("normalizer")) {
    const json type = step.value("type", json());
    if (type == "Prepend") prefix = true;
    else if (type != "Replace") return invalid("the tokenizer's normalizer ", type.dump(), " cannot be stored in GGUF");
  }
  for (const json& step : steps.at("pre_tokenizer")) {
    const json type = step.value("type", json());
    if (type != "Metaspace") return invalid("the tokenizer's pre-tokenizer ", type.dump(), " beside byte fallback cannot be stored in GGUF");
    prefix = prefix || step.value("prepend_scheme", json("always")) != "never";
  }
  return prefix;
}

// The best score goes to the piece that is joined first.
std::vector<float> scores_from_merges(const TokenizerSpec& spec, const std::vector<std::string>& tokens) {
  std::unordered_map<std::string, size_t> rank;
  for (size_t i = 0; i < spec.merges.size(); ++i) rank.emplace(spec.merges[i].first + spec.merges[i].second, i);
  std::vector<float> scores;
  scores.reserve(tokens.size());
  for (const std::string& token : tokens) {
    const auto found = rank.find(token);
    scores.push_back(-static_cast<float>(found == rank.end() ? rank.size() : found->second));
  }
  return scores;
}

bool is_byte_token(const std::string& text) { return text.size() == 6 && text.compare(0, 3, "<0x") == 0 && text.back() == '>'; }

void set_types(const TokenizerSpec& spec, GgufVocabulary& v) {
  for (const AddedToken& token : spec.added) v.token_types[static_cast<size_t>(token.id)] = token.special ? GgufVocabulary::kControl : GgufVocabulary::kUserDefined;
  if (!spec.byte_fallback) return;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (is_byte_token(v.tokens[id])) v.token_types[id] = GgufVocabulary::kByte;
    if (!spec.model_unk.empty() && v.tokens[id] == spec.model_unk) v.token_types[id] = GgufVocabulary::kUnknown;
  }
}

// What the post-processor adds, found by looking.
Status set_added_ends(const Tokenizer& tokenizer, GgufVocabulary& v) {
  RETORT_TRY(const auto ids, tokenizer.encode(""));
  size_t at = 0;
  v.add_bos = at < ids.size() && ids[at] == tokenizer.bos_id();
  if (*v.add_bos) ++at;
  v.add_eos = at < ids.size() && ids[at] == tokenizer.eos_id();
  if (*v.add_eos) ++at;
  if (at != ids.size()) return invalid("the tokenizer adds '", tokenizer.token_text(ids[at]), "' to every text; GGUF can say so of bos and eos only");
  return {};
}

}  // namespace

Result<GgufVocabulary> gguf_vocabulary(const Tokenizer& tokenizer, int vocab_size) {
  const TokenizerSpec& spec = tokenizer.spec();
  GgufVocabulary v;
  v.model = spec.byte_fallback ? "llama" : "gpt2";
  if (spec.byte_fallback) {
    RETORT_TRY(v.add_space_prefix, adds_space_prefix(spec));
    v.pre = "default";
  } else {
    RETORT_TRY(v.pre, pre_name(spec));
  }
  for (int id = 0; id < vocab_size; ++id) {
    const std::string& text = tokenizer.token_text(id);
    v.tokens.push_back(text.empty() ? cat("[PAD", id, "]") : text);
    v.token_types.push_back(text.empty() ? GgufVocabulary::kUnused : GgufVocabulary::kNormal);
  }
  set_types(spec, v);
  if (spec.byte_fallback) {
    v.scores = scores_from_merges(spec, v.tokens);
  } else {
    for (const auto& [left, right] : spec.merges) v.merges.push_back(left + " " + right);
  }
  const auto known = [](int32_t id) { return id >= 0 ? std::optional<int64_t>(id) : std::nullopt; };
  v.bos = known(tokenizer.bos_id());
  v.eos = known(tokenizer.eos_id());
  v.unk = known(tokenizer.unk_id());
  v.pad = known(tokenizer.pad_id());
  RETORT_RETURN_IF_ERROR(set_added_ends(tokenizer, v));
  v.chat_template = tokenizer.chat_template();
  return v;
}

Status add_tokenizer(GgufMetadata& metadata, const Tokenizer& tokenizer, const ModelConfig& config) {
  RETORT_TRY(const GgufVocabulary v, gguf_vocabulary(tokenizer, config.vocab_size));
  metadata.text("tokenizer.ggml.model", v.model);
  metadata.text("tokenizer.ggml.pre", v.pre);
  metadata.texts("tokenizer.ggml.tokens", v.tokens);
  metadata.i32s("tokenizer.ggml.token_type", v.token_types);
  if (!v.scores.empty()) metadata.f32s("tokenizer.ggml.scores", v.scores);
  if (v.model == "gpt2") metadata.texts("tokenizer.ggml.merges", v.merges);
  // Where a generation ends: the tokenizer's eos first, then the model's others under the two keys that GGUF has for them.
  std::vector<int64_t> ends;
  if (v.eos) ends.push_back(*v.eos);
  for (int id : config.eos_ids) {
    if (id < config.vocab_size && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  constexpr const char* kEndKeys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
  for (size_t i = 0; i < std::min(ends.size(), std::size(kEndKeys)); ++i) metadata.u32(kEndKeys[i], static_cast<uint32_t>(ends[i]));
  const auto id_key = [&](const char* key, const std::optional<int64_t>& id) {
    if (id) metadata.u32(key, static_cast<uint32_t>(*id));
  };
  id_key("tokenizer.ggml.bos_token_id", v.bos ? v.bos : config.bos_id >= 0 ? std::optional<int64_t>(config.bos_id) : std::nullopt);
  id_key("tokenizer.ggml.unknown_token_id", v.unk);
  id_key("tokenizer.ggml.padding_token_id", v.pad);
  metadata.boolean("tokenizer.ggml.add_bos_token", *v.add_bos);
  metadata.boolean("tokenizer.ggml.add_eos_token", *v.add_eos);
  if (v.add_space_prefix) metadata.boolean("tokenizer.ggml.add_space_prefix", *v.add_space_prefix);
  if (!v.chat_template.empty()) metadata.text("tokenizer.chat_template", v.chat_template);
  return {};
}

}  // namespace retort
