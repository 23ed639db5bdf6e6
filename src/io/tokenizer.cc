#include "io/tokenizer.h"

#include <algorithm>
#include <mutex>

#include "base/hash.h"
#include "io/bpe.h"
#include "io/pretokenizer.h"
#include "io/tokenizer_added.h"
#include "io/tokenizer_decoder.h"
#include "io/tokenizer_json_fields.h"

namespace retort {

using nlohmann::json;

namespace {

constexpr size_t kMaxText = size_t(1) << 30;

// Special tokens that end a turn in the chat formats of the models we read; eos alone does not stop all of them.
constexpr const char* kEndOfTurn[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
                                      "<|end_of_text|>", "</s>"};

}  // namespace

struct Tokenizer::Impl {
  struct Template {  // ids around the text
    std::vector<int32_t> before, after;
  };
  TokenizerSpec spec;
  std::optional<Bpe> bpe;
  Normalizer normalizer;
  PreTokenizer pre;
  TokenDecoder decoder;
  AddedTokenFinder raw_added, normalized_added;
  Template around;
  std::vector<std::string> texts;  // by id, model and added
  std::vector<uint8_t> special;    // by id
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
  std::vector<int32_t> eog;
  uint64_t fingerprint = 0;

  // Word caches wait here between calls, so that they outlive a call and threads do not share one.
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<WordCache>> caches;

  Status build();
  Status build_added();
  bool is_id(const json& value) const {
    return value.is_number_integer() && value.get<int64_t>() >= 0 && value.get<int64_t>() < int64_t(texts.size());
  }
  Result<Template> read_template(const json& post, const std::string& where) const;
  Result<Template> read_processor(const std::string& type, const json& post, const std::string& where) const;
  Status read_pieces(const json& post, const std::string& where, Template& out) const;
  int32_t find(std::string_view token) const;
  void build_specials();
  void build_fingerprint();
  Status encode_part(std::string_view text, bool at_start, bool parse_special, WordCache& cache,
                     std::vector<int32_t>& out) const;
  void encode_word(std::string_view word, WordCache& cache, std::vector<int32_t>& out) const;
};

int32_t Tokenizer::Impl::find(std::string_view token) const {
  for (const auto& a : spec.added) {
    if (a.content == token) return a.id;
  }
  const uint32_t id = bpe->find(token);
  return id == StringIds::kNone ? -1 : int32_t(id);
}

Status Tokenizer::Impl::build() {
  RETORT_TRY(normalizer, Normalizer::make(spec.normalizer));
  RETORT_TRY(pre, PreTokenizer::make(spec.pre_tokenizer));
  RETORT_TRY(decoder, TokenDecoder::make(spec.decoder));
  BpeOptions options;
  options.byte_level = pre.byte_level();
  options.byte_fallback = spec.byte_fallback;
  options.fuse_unk = spec.fuse_unk;
  options.ignore_merges = spec.ignore_merges;
  options.unk_token = spec.model_unk;
  RETORT_TRY(bpe, Bpe::make(spec.tokens, spec.merges, options));
  RETORT_RETURN_IF_ERROR(build_added());
  if (!spec.post_processor.is_null()) {
    RETORT_TRY(around, read_template(spec.post_processor, "post_processor"));
  }
  build_specials();
  build_fingerprint();
  return {};
}

Status Tokenizer::Impl::build_added() {
  texts = spec.tokens;
  for (auto& token : spec.added) {
    if (const uint32_t known = bpe->find(token.content); known != StringIds::kNone) token.id = int32_t(known);
    if (size_t(token.id) >= texts.size()) texts.resize(size_t(token.id) + 1);
    auto& text = texts[size_t(token.id)];
    if (!text.empty() && text != token.content && bpe->find(token.content) != uint32_t(token.id)) {
      return invalid("added_tokens: '", token.content, "' has id ", token.id, ", which is '", text, "'");
    }
    // `tokenizers` shows a normalized token in its normalized form.
    text = token.normalized ? normalizer.run(token.content) : token.content;
  }
  special.assign(texts.size(), 0);
  for (const auto& token : spec.added) {
    if (token.special) special[size_t(token.id)] = 1;
    if (token.normalized) {
      normalized_added.add(normalizer.run(token.content), token);
    } else {
      raw_added.add(token.content, token);
    }
  }
  return {};
}

// Every processor writes around what those before it wrote.
Result<Tokenizer::Impl::Template> Tokenizer::Impl::read_template(const json& post, const std::string& where) const {
  Template out;
  const auto add = [&](const std::string& type, const json& step, const std::string& at) -> Status {
    RETORT_TRY(const Template around, read_processor(type, step, at));
    out.before.insert(out.before.begin(), around.before.begin(), around.before.end());
    out.after.insert(out.after.end(), around.after.begin(), around.after.end());
    return {};
  };
  RETORT_RETURN_IF_ERROR(for_each_step(post, "processors", where, add));
  return out;
}

Result<Tokenizer::Impl::Template> Tokenizer::Impl::read_processor(const std::string& type, const json& post, const std::string& where) const {
  Template out;
  if (type == "ByteLevel") return out;
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    for (const char* key : {"cls", "sep"}) {
      const json* pair = json_member(post, key);
      if (pair == nullptr || !pair->is_array() || pair->size() != 2 || !is_id((*pair)[1])) {
        return invalid(where, ".", key, ": [token, id] with an id of the vocabulary is expected");
      }
      (key == std::string("cls") ? out.before : out.after).push_back((*pair)[1].get<int32_t>());
    }
    return out;
  }
  if (type != "TemplateProcessing") {
    return invalid(where, ": post-processor '", type, "' is not supported; supported are Sequence, ByteLevel, ",
                   "TemplateProcessing, BertProcessing, RobertaProcessing");
  }
  RETORT_RETURN_IF_ERROR(read_pieces(post, where, out));
  return out;
}

Status Tokenizer::Impl::read_pieces(const json& post, const std::string& where, Template& out) const {
  RETORT_TRY(const json* pieces, json_array(post, "single", where));
  const json* specials = json_member(post, "special_tokens");
  bool after = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const std::string here = cat(where, ".single[", i, "]");
    if (json_member((*pieces)[i], "Sequence") != nullptr) {
      if (after) return invalid(here, ": the text may appear once");
      after = true;
      continue;
    }
    const json* token = json_member((*pieces)[i], "SpecialToken");
    if (token == nullptr) return invalid(here, ": SpecialToken or Sequence is expected");
    RETORT_TRY(const std::string name, json_string(*token, "id", here));
    const json* entry = specials == nullptr ? nullptr : json_member(*specials, name.c_str());
    if (entry == nullptr) return invalid(here, ": '", name, "' is not among special_tokens");
    RETORT_TRY(const json* ids, json_array(*entry, "ids", cat(where, ".special_tokens.", name)));
    for (const json& id : *ids) {
      if (!is_id(id)) {
        return invalid(where, ".special_tokens.", name, ".ids: an id below ", texts.size(), " is expected");
      }
      (after ? out.after : out.before).push_back(id.get<int32_t>());
    }
  }
  if (!after) return invalid(where, ".single: no Sequence, so the text would be lost");
  return {};
}

void Tokenizer::Impl::build_specials() {
  const auto id_of = [&](const std::string& token) { return token.empty() ? -1 : find(token); };
  bos = id_of(spec.bos);
  eos = id_of(spec.eos);
  pad = id_of(spec.pad);
  unk = id_of(spec.unk);
  if (eos >= 0) eog.push_back(eos);
  for (const char* name : kEndOfTurn) {
    const int32_t id = find(name);
    if (id >= 0 && special[size_t(id)] && std::find(eog.begin(), eog.end(), id) == eog.end()) eog.push_back(id);
  }
}

void Tokenizer::Impl::build_fingerprint() {
  uint64_t h = kFnvStart;
  const auto add = [&](std::string_view s) { h = fnv1a_item(s, h); };
  for (const auto& t : texts) add(t);
  for (const auto& [left, right] : spec.merges) add(left), add(right);
  for (const json* part : {&spec.normalizer, &spec.pre_tokenizer, &spec.post_processor, &spec.decoder}) {
    add(part->dump(-1, ' ', true, json::error_handler_t::replace));
  }
  fingerprint = h;
}

// Without a pre-tokenizer a whole document is one word; cutting it where no merge can reach makes the cache useful.
void Tokenizer::Impl::encode_word(std::string_view word, WordCache& cache, std::vector<int32_t>& out) const {
  if (!bpe->splits_before_space_mark() || spec.ignore_merges) return bpe->encode(word, cache, out);
  size_t start = 0;
  for (size_t pos = 0; (pos = word.find(kSpaceMark, pos)) != std::string_view::npos; pos += kSpaceMark.size()) {
    const bool after_mark = pos >= 3 && word.substr(pos - 3, 3) == kSpaceMark;
    if (pos == start || after_mark) continue;
    bpe->encode(word.substr(start, pos - start), cache, out);
    start = pos;
  }
  bpe->encode(word.substr(start), cache, out);
}

Status Tokenizer::Impl::encode_part(std::string_view text, bool at_start, bool parse_special, WordCache& cache,
                                    std::vector<int32_t>& out) const {
  const PreTokenizer::Emit emit = [&](std::string_view word) { encode_word(word, cache, out); };
  if (normalizer.empty() && normalized_added.empty()) return pre.run(text, at_start, emit);
  const std::string normal = normalizer.run(text);
  for (const auto& part : normalized_added.split(normal, parse_special)) {
    if (part.id >= 0) {
      out.push_back(part.id);
    } else {
      RETORT_RETURN_IF_ERROR(pre.run(part.text, at_start && part.text.data() == normal.data(), emit));
    }
  }
  return {};
}

Result<Tokenizer> Tokenizer::from_spec(TokenizerSpec spec) {
  auto impl = std::make_shared<Impl>();
  impl->spec = std::move(spec);
  RETORT_RETURN_IF_ERROR(impl->build());
  return Tokenizer(std::move(impl));
}

Result<Tokenizer> Tokenizer::from_json(const std::string& tokenizer_json, const std::string& config_json) {
  RETORT_TRY(TokenizerSpec spec, parse_tokenizer_json(tokenizer_json, config_json));
  return from_spec(std::move(spec));
}

Result<Tokenizer> Tokenizer::from_gguf(GgufVocabulary vocabulary) {
  RETORT_TRY(TokenizerSpec spec, spec_from_gguf(std::move(vocabulary)));
  return from_spec(std::move(spec));
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxText) return invalid("a text of ", text.size(), " bytes; at most ", kMaxText, " can be tokenized at once");
  if (const size_t bad = utf8::first_invalid(text); bad != utf8::kValid) {
    return invalid("text is not valid UTF-8 at byte ", bad);
  }
  std::unique_ptr<WordCache> cache;
  {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->caches.empty()) {
      cache = std::move(impl_->caches.back());
      impl_->caches.pop_back();
    }
  }
  if (!cache) cache = std::make_unique<WordCache>();
  std::vector<int32_t> ids;
  if (options.add_special) ids = impl_->around.before;
  Status status;
  const auto start_of = [&](std::string_view part) { return size_t(part.data() - text.data()); };
  for (const auto& part : impl_->raw_added.split(text, options.parse_special, options.untrusted)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else if (status.ok()) {
      // Normalization moves bytes, so a part with any untrusted byte is untrusted as a whole there.
      const size_t first = start_of(part.text), last = first + part.text.size();
      const bool parse = options.parse_special && std::none_of(options.untrusted.begin(), options.untrusted.end(),
          [&](const auto& r) { return r.first < last && r.second > first; });
      status = impl_->encode_part(part.text, first == 0, parse, *cache, ids);
    }
  }
  if (options.add_special) ids.insert(ids.end(), impl_->around.after.begin(), impl_->around.after.end());
  {
    std::lock_guard lock(impl_->mutex);
    impl_->caches.push_back(std::move(cache));
  }
  RETORT_RETURN_IF_ERROR(status);
  return ids;
}

Result<std::vector<int32_t>> Tokenizer::encode_lossy(std::string_view text, EncodeOptions options) const {
  return utf8::is_valid(text) ? encode(text, options) : encode(utf8::repair(text), options);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    if (id < 0 || size_t(id) >= impl_->texts.size() || impl_->texts[size_t(id)].empty()) continue;
    if (skip_special && impl_->special[size_t(id)]) continue;
    tokens.push_back(impl_->texts[size_t(id)]);
  }
  return impl_->decoder.decode(std::move(tokens));
}

std::string Tokenizer::token_bytes(int32_t id) const { return impl_->decoder.bytes(token_text(id)); }

const std::string& Tokenizer::token_text(int32_t id) const {
  static const std::string none;
  return id < 0 || size_t(id) >= impl_->texts.size() ? none : impl_->texts[size_t(id)];
}

int32_t Tokenizer::find(std::string_view token) const { return impl_->find(token); }
size_t Tokenizer::size() const { return impl_->texts.size(); }

std::vector<int32_t> Tokenizer::ids_without_token(int rows) const {
  std::vector<int32_t> out;
  for (int32_t id = 0; id < rows; ++id) {
    if (token_text(id).empty()) out.push_back(id);
  }
  return out;
}
int32_t Tokenizer::bos_id() const { return impl_->bos; }
int32_t Tokenizer::eos_id() const { return impl_->eos; }
int32_t Tokenizer::pad_id() const { return impl_->pad; }
int32_t Tokenizer::unk_id() const { return impl_->unk; }
const std::vector<int32_t>& Tokenizer::eog_ids() const { return impl_->eog; }
bool Tokenizer::is_eog(int32_t id) const { return std::find(impl_->eog.begin(), impl_->eog.end(), id) != impl_->eog.end(); }
bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && size_t(id) < impl_->special.size() && impl_->special[size_t(id)];
}
const std::string& Tokenizer::chat_template() const { return impl_->spec.chat_template; }
const TokenizerSpec& Tokenizer::spec() const { return impl_->spec; }
uint64_t Tokenizer::fingerprint() const { return impl_->fingerprint; }

}  // namespace retort
