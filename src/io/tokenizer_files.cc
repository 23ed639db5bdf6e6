#include "io/tokenizer_files.h"

#include <filesystem>

#include "base/mapped_file.h"
#include "base/path.h"
#include "io/tokenizer_spec.h"

namespace retort {
namespace {

constexpr size_t kMaxFile = size_t(256) << 20;

Result<std::optional<int64_t>> optional_integer(const GgufFile& file, const char* key) {
  if (!file.has(key)) return std::optional<int64_t>();
  RETORT_TRY(const int64_t value, file.integer(key));
  return std::optional<int64_t>(value);
}

Result<std::optional<bool>> optional_boolean(const GgufFile& file, const char* key) {
  if (!file.has(key)) return std::optional<bool>();
  RETORT_TRY(const bool value, file.boolean(key));
  return std::optional<bool>(value);
}

Result<GgufVocabulary> read_vocabulary(const GgufFile& file) {
  GgufVocabulary v;
  RETORT_TRY(v.model, file.text("tokenizer.ggml.model"));
  RETORT_TRY(v.pre, file.text_or("tokenizer.ggml.pre", ""));
  RETORT_TRY(const auto tokens, file.texts("tokenizer.ggml.tokens"));
  v.tokens.assign(tokens.begin(), tokens.end());
  if (file.has("tokenizer.ggml.token_type")) {
    RETORT_TRY(const auto types, file.integers("tokenizer.ggml.token_type"));
    for (int64_t t : types) v.token_types.push_back(t >= 0 && t <= 6 ? int32_t(t) : 0);
  }
  if (file.has("tokenizer.ggml.scores")) {
    RETORT_TRY(const auto scores, file.numbers("tokenizer.ggml.scores"));
    v.scores.assign(scores.begin(), scores.end());
  }
  if (file.has("tokenizer.ggml.merges")) {
    RETORT_TRY(const auto merges, file.texts("tokenizer.ggml.merges"));
    v.merges.assign(merges.begin(), merges.end());
  }
  RETORT_TRY(v.bos, optional_integer(file, "tokenizer.ggml.bos_token_id"));
  RETORT_TRY(v.eos, optional_integer(file, "tokenizer.ggml.eos_token_id"));
  RETORT_TRY(v.unk, optional_integer(file, "tokenizer.ggml.unknown_token_id"));
  RETORT_TRY(v.pad, optional_integer(file, "tokenizer.ggml.padding_token_id"));
  RETORT_TRY(v.add_bos, optional_boolean(file, "tokenizer.ggml.add_bos_token"));
  RETORT_TRY(v.add_eos, optional_boolean(file, "tokenizer.ggml.add_eos_token"));
  RETORT_TRY(v.add_space_prefix, optional_boolean(file, "tokenizer.ggml.add_space_prefix"));
  RETORT_TRY(v.chat_template, file.text_or("tokenizer.chat_template", ""));
  return v;
}

// Puts the file's name in front of an error.
template <class T>
Result<T> located(Result<T> result, const std::string& path) {
  if (result.ok()) return result;
  return Error{result.error().code, cat(path, ": ", result.error().message)};
}

}  // namespace

Result<Tokenizer> tokenizer_from_gguf(const GgufFile& file) {
  RETORT_TRY(GgufVocabulary vocabulary, read_vocabulary(file));
  return located(Tokenizer::from_gguf(std::move(vocabulary)), file.path());
}

Result<Tokenizer> load_tokenizer(const std::string& path) {
  namespace fs = std::filesystem;
  fs::path json = path;
  if (is_folder(path)) {
    json = fs::path(path) / "tokenizer.json";
  } else if (json.extension() != ".json") {
    RETORT_TRY(const GgufFile file, GgufFile::open(path));
    return tokenizer_from_gguf(file);
  }
  RETORT_TRY(const std::string text, read_text_file(json.string(), kMaxFile));
  std::string config;
  const fs::path config_path = json.parent_path() / "tokenizer_config.json";
  if (path_exists(config_path.string())) {
    RETORT_TRY(config, read_text_file(config_path.string(), kMaxFile));
  }
  RETORT_TRY(TokenizerSpec spec, located(parse_tokenizer_json(text, config), json.parent_path().string()));
  const fs::path template_path = json.parent_path() / "chat_template.jinja";
  if (path_exists(template_path.string())) {
    RETORT_TRY(spec.chat_template, read_text_file(template_path.string(), kMaxFile));
  }
  return located(Tokenizer::from_spec(std::move(spec)), json.string());
}

Result<Tokenizer> open_tokenizer(const ModelFiles& files) {
  RETORT_TRY(Tokenizer tokenizer, files.gguf ? tokenizer_from_gguf(*files.gguf) : load_tokenizer(files.path));
  if (int64_t(tokenizer.size()) > files.config.vocab_size) {
    return invalid(files.path, ": the tokenizer has ", tokenizer.size(), " ids, the embedding ", files.config.vocab_size, " rows");
  }
  return tokenizer;
}

}  // namespace retort
