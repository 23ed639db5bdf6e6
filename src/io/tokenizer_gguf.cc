// A GGUF names its pre-tokenizer by a word ("smollm", "llama-bpe") and leaves the rest to the reader. Here is the rest.
#include <algorithm>
#include <unordered_map>

#include "io/bpe.h"
#include "io/pretokenizer.h"
#include "io/tokenizer_spec.h"
#include "io/utf8.h"

namespace retort {

using nlohmann::json;

namespace {

constexpr size_t kMaxTokens = 1 << 21;

struct PreKind {
  const char* name;
  std::vector<std::string> regexes;  // split by each in turn
  bool digits = false;               // single digits first
  bool nfc = false, ignore_merges = false, add_bos = false;
};

const char* const kTekkenRegex =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<PreKind>& pre_kinds() {
  static const std::vector<PreKind> kinds = [] {
    const std::string llama3 = llama3_regex("\\p{N}{1,3}"), qwen2 = llama3_regex("\\p{N}");
    std::vector<PreKind> out;
    for (const char* name : {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}) {
      out.push_back({.name = name, .regexes = {}, .digits = true});
    }
    for (const char* name : {"default", "gpt-2", "phi-2", "mpt", "olmo", "jais"}) out.push_back({.name = name, .regexes = {}});
    for (const char* name : {"llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"}) {
      out.push_back({.name = name, .regexes = {llama3}, .ignore_merges = true, .add_bos = true});
    }
    for (const char* name : {"dbrx"}) out.push_back({.name = name, .regexes = {llama3}});
    for (const char* name : {"qwen2", "deepseek-r1-qwen", "megrez"}) {
      out.push_back({.name = name, .regexes = {qwen2}, .nfc = true});
    }
    out.push_back({.name = "tekken", .regexes = {kTekkenRegex}, .ignore_merges = true, .add_bos = true});
    return out;
  }();
  return kinds;
}

json string_pattern(const std::string& text) { return {{"String", text}}; }

Status check_tokens(const GgufVocabulary& v) {
  if (v.tokens.empty() || v.tokens.size() > kMaxTokens) {
    return invalid("tokenizer.ggml.tokens: ", v.tokens.size(), " tokens; 1 to ", kMaxTokens, " are expected");
  }
  if (!v.token_types.empty() && v.token_types.size() != v.tokens.size()) {
    return invalid("tokenizer.ggml.token_type: ", v.token_types.size(), " entries for ", v.tokens.size(), " tokens");
  }
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (!utf8::is_valid(v.tokens[i])) return invalid("tokenizer.ggml.tokens[", i, "]: not valid UTF-8");
  }
  if (!utf8::is_valid(v.chat_template)) return invalid("tokenizer.chat_template: not valid UTF-8");
  return {};
}

int32_t type_of(const GgufVocabulary& v, size_t id) { return v.token_types.empty() ? int32_t(GgufVocabulary::kNormal) : v.token_types[id]; }

// Converters name the rows that pad an embedding to a round number "[PAD7]". They are no tokens: no text has them.
void forget_padding(GgufVocabulary& v) {
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (type_of(v, id) == GgufVocabulary::kUnused && v.tokens[id] == cat("[PAD", id, "]")) v.tokens[id].clear();
  }
}

Status set_specials(const GgufVocabulary& v, TokenizerSpec& spec) {
  const std::pair<const char*, std::pair<const std::optional<int64_t>*, std::string*>> fields[] = {
      {"bos", {&v.bos, &spec.bos}}, {"eos", {&v.eos, &spec.eos}}, {"unknown", {&v.unk, &spec.unk}},
      {"padding", {&v.pad, &spec.pad}}};
  for (const auto& [name, field] : fields) {
    if (!*field.first) continue;
    const int64_t id = **field.first;
    if (id < 0 || size_t(id) >= v.tokens.size()) {
      return invalid("tokenizer.ggml.", name, "_token_id: ", id, "; an id below ", v.tokens.size(), " is expected");
    }
    *field.second = v.tokens[size_t(id)];
  }
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const int32_t type = type_of(v, id);
    const bool special = type == GgufVocabulary::kControl || (type == GgufVocabulary::kUnknown && v.model == "llama");
    if ((!special && type != GgufVocabulary::kUserDefined) || v.tokens[id].empty()) continue;
    AddedToken token;
    token.id = int32_t(id);
    token.content = v.tokens[id];
    token.special = special;
    spec.added.push_back(std::move(token));
  }
  return {};
}

void set_template(const GgufVocabulary& v, bool add_bos, bool add_eos, TokenizerSpec& spec) {
  json single = json::array(), pair = json::array(), tokens = json::object();
  const auto put = [&](const std::string& token, int64_t id, json& list, int type) {
    list.push_back({{"SpecialToken", {{"id", token}, {"type_id", type}}}});
    tokens[token] = {{"id", token}, {"ids", json::array({id})}, {"tokens", json::array({token})}};
  };
  const auto side = [&](json& list, const char* name, int type) {
    if (add_bos) put(spec.bos, *v.bos, list, type);
    list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    if (add_eos) put(spec.eos, *v.eos, list, type);
  };
  side(single, "A", 0);
  side(pair, "A", 0);
  side(pair, "B", 1);
  if (add_bos || add_eos) {
    spec.post_processor = {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
  }
}

Status set_byte_level(const GgufVocabulary& v, TokenizerSpec& spec, bool& default_add_bos) {
  const std::string name = v.pre.empty() ? "default" : v.pre;
  const auto& kinds = pre_kinds();
  const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const PreKind& k) { return k.name == name; });
  if (kind == kinds.end()) {
    std::string known;
    for (const auto& k : kinds) known += cat(known.empty() ? "" : ", ", k.name);
    return invalid("tokenizer.ggml.pre: '", name, "' is not supported; supported are ", known);
  }
  default_add_bos = kind->add_bos;
  spec.ignore_merges = kind->ignore_merges;
  if (kind->nfc) spec.normalizer = {{"type", "NFC"}};
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true},
                           {"use_regex", kind->regexes.empty()}};
  json steps = json::array();
  if (kind->digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  for (const auto& regex : kind->regexes) {
    steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(byte_level);
  spec.pre_tokenizer = steps.size() == 1 ? byte_level : json{{"type", "Sequence"}, {"pretokenizers", steps}};
  spec.decoder = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  spec.merges.reserve(v.merges.size());
  for (size_t i = 0; i < v.merges.size(); ++i) {
    const size_t space = v.merges[i].find(' ', 1);
    if (space == std::string::npos) return invalid("tokenizer.ggml.merges[", i, "]: '", v.merges[i], "'; \"left right\" is expected");
    spec.merges.emplace_back(v.merges[i].substr(0, space), v.merges[i].substr(space + 1));
  }
  return {};
}

// SentencePiece joins the pair whose piece has the best score. As ranks: every way to cut a piece into two pieces, best
// score first, then the longer left part, then the longer right part, then later pieces first: the order that
// converters to tokenizer.json use.
std::vector<std::pair<std::string, std::string>> merges_from_scores(const GgufVocabulary& v) {
  struct Cut {
    uint32_t piece, left, right;
    uint16_t left_chars, right_chars;
  };
  std::unordered_map<std::string_view, uint32_t> ids;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (!v.tokens[id].empty() && type_of(v, id) != GgufVocabulary::kControl) ids.emplace(v.tokens[id], uint32_t(id));
  }
  std::vector<Cut> cuts;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const std::string_view piece = v.tokens[id];
    if (piece.empty() || type_of(v, id) == GgufVocabulary::kControl || piece.size() > 4096) continue;
    const size_t first = cuts.size();
    const size_t chars = utf8::count(piece);
    size_t n = 1;
    for (size_t pos = 0; utf8::next(piece, pos), pos < piece.size(); ++n) {
      const auto left = ids.find(piece.substr(0, pos)), right = ids.find(piece.substr(pos));
      if (left == ids.end() || right == ids.end()) continue;
      cuts.push_back({uint32_t(id), left->second, right->second, uint16_t(n), uint16_t(chars - n)});
    }
    std::sort(cuts.begin() + std::ptrdiff_t(first), cuts.end(),
              [](const Cut& a, const Cut& b) { return std::tie(a.left, a.right) < std::tie(b.left, b.right); });
  }
  std::stable_sort(cuts.begin(), cuts.end(), [&](const Cut& a, const Cut& b) {
    const float x = v.scores[a.piece], y = v.scores[b.piece];
    return std::tie(x, a.left_chars, a.right_chars) > std::tie(y, b.left_chars, b.right_chars);
  });
  std::vector<std::pair<std::string, std::string>> out;
  out.reserve(cuts.size());
  for (const Cut& c : cuts) out.emplace_back(v.tokens[c.left], v.tokens[c.right]);
  return out;
}

Status set_sentencepiece(const GgufVocabulary& v, TokenizerSpec& spec) {
  if (v.scores.size() != v.tokens.size()) {
    return invalid("tokenizer.ggml.scores: ", v.scores.size(), " entries for ", v.tokens.size(), " tokens");
  }
  for (size_t i = 0; i < v.scores.size(); ++i) {
    if (!(v.scores[i] == v.scores[i])) return invalid("tokenizer.ggml.scores[", i, "]: not a number");
  }
  spec.merges = merges_from_scores(v);
  spec.byte_fallback = true;
  spec.fuse_unk = true;
  spec.model_unk = spec.unk;
  const json to_mark = {{"type", "Replace"}, {"pattern", string_pattern(" ")}, {"content", kSpaceMark}};
  json decoders = json::array({{{"type", "Replace"}, {"pattern", string_pattern(std::string(kSpaceMark))}, {"content", " "}},
                               {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (v.add_space_prefix.value_or(true)) {
    spec.normalizer = {{"type", "Sequence"},
                       {"normalizers", json::array({{{"type", "Prepend"}, {"prepend", kSpaceMark}}, to_mark})}};
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  } else {
    spec.normalizer = to_mark;
  }
  spec.decoder = {{"type", "Sequence"}, {"decoders", decoders}};
  return {};
}

}  // namespace

Result<TokenizerSpec> spec_from_gguf(GgufVocabulary v) {
  TokenizerSpec spec;
  RETORT_RETURN_IF_ERROR(check_tokens(v));
  forget_padding(v);
  RETORT_RETURN_IF_ERROR(set_specials(v, spec));
  bool default_add_bos = false;
  if (v.model == "gpt2") {
    RETORT_RETURN_IF_ERROR(set_byte_level(v, spec, default_add_bos));
  } else if (v.model == "llama") {
    RETORT_RETURN_IF_ERROR(set_sentencepiece(v, spec));
    default_add_bos = true;
  } else {
    return invalid("tokenizer.ggml.model: '", v.model, "' is not supported; supported are gpt2, llama");
  }
  const bool add_bos = v.add_bos.value_or(default_add_bos && v.bos.has_value());
  const bool add_eos = v.add_eos.value_or(false);
  if (add_bos && !v.bos) return invalid("tokenizer.ggml.add_bos_token is true, but there is no bos_token_id");
  if (add_eos && !v.eos) return invalid("tokenizer.ggml.add_eos_token is true, but there is no eos_token_id");
  set_template(v, add_bos, add_eos, spec);
  spec.chat_template = std::move(v.chat_template);
  spec.tokens = std::move(v.tokens);
  while (!spec.tokens.empty() && spec.tokens.back().empty()) spec.tokens.pop_back();
  return spec;
}

}  // namespace retort
