#include "io/tokenizer_decoder.h"

#include <cctype>

#include "io/bpe.h"
#include "io/pretokenizer.h"
#include "io/tokenizer_json_fields.h"
#include "io/utf8.h"

namespace retort {

using nlohmann::json;

namespace {

// The byte of a token spelled <0xNN>, or -1.
int fallback_byte(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
  const auto hex = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  const int high = hex(token[3]), low = hex(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string join(const std::vector<std::string>& tokens) {
  std::string out;
  for (const auto& t : tokens) out += t;
  return out;
}

std::string byte_level_bytes(const std::string& token) {
  std::string bytes;
  return byte_level_decode(token, bytes) ? bytes : token;
}

// Runs of byte tokens become their characters, or one U+FFFD per byte when they are none.
void join_fallback_bytes(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (utf8::is_valid(run)) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), "\xef\xbf\xbd");
    }
    run.clear();
  };
  for (auto& t : tokens) {
    const int byte = fallback_byte(t);
    if (byte >= 0) {
      run += char(byte);
    } else {
      flush();
      out.push_back(std::move(t));
    }
  }
  flush();
  tokens = std::move(out);
}

std::string strip(const std::string& text, const std::string& content, size_t start, size_t stop) {
  size_t first = 0, last = text.size();
  for (size_t i = 0; i < start && text.compare(first, content.size(), content) == 0; ++i) first += content.size();
  for (size_t i = 0; i < stop && last >= first + content.size() &&
                     text.compare(last - content.size(), content.size(), content) == 0;
       ++i) {
    last -= content.size();
  }
  return text.substr(first, last - first);
}

}  // namespace

Result<TokenDecoder> TokenDecoder::make(const json& spec, const std::string& where) {
  TokenDecoder out;
  out.none_ = spec.is_null();
  const auto add = [&](const std::string& type, const json& step, const std::string& at) { return out.add(type, step, at); };
  if (!out.none_) RETORT_RETURN_IF_ERROR(for_each_step(spec, "decoders", where, add));
  return out;
}

Status TokenDecoder::add(const std::string& type, const json& spec, const std::string& where) {
  Step step;
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    RETORT_RETURN_IF_ERROR(read_replacement(spec, where, step.a, step.b));
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    RETORT_TRY(step.a, json_string(spec, "content", where));
    for (const char* key : {"start", "stop"}) {
      const json* n = json_member(spec, key);
      if (n == nullptr || !n->is_number_integer() || n->get<int64_t>() < 0 || n->get<int64_t>() > 1000) {
        return invalid(where, ".", key, ": a whole number from 0 to 1000 is expected");
      }
      (key == std::string("start") ? step.start : step.stop) = n->get<size_t>();
    }
    if (step.a.empty()) return invalid(where, ".content: one character is expected");
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    RETORT_TRY(step.a, json_string(spec, "replacement", where));
    RETORT_TRY(const bool prefix, json_bool(spec, "add_prefix_space", true, where));
    RETORT_TRY(const std::string scheme, json_string_or_empty(spec, "prepend_scheme", where));
    step.prepended = scheme.empty() ? prefix : scheme != "never";
  } else {
    return invalid(where, ": decoder '", type, "' is not supported; supported are Sequence, ByteLevel, ByteFallback, Fuse, ",
                   "Replace, Strip, Metaspace");
  }
  steps_.push_back(std::move(step));
  return {};
}

void TokenDecoder::apply(const Step& step, std::vector<std::string>& tokens) {
  switch (step.kind) {
    case Kind::kByteLevel: {
      std::string all;
      for (const auto& t : tokens) all += byte_level_bytes(t);
      tokens = {utf8::repair(all)};
      break;
    }
    case Kind::kReplace:
      for (auto& t : tokens) t = replace_all(t, step.a, step.b);
      break;
    case Kind::kByteFallback:
      join_fallback_bytes(tokens);
      break;
    case Kind::kFuse:
      tokens = {join(tokens)};
      break;
    case Kind::kStrip:
      for (auto& t : tokens) t = strip(t, step.a, step.start, step.stop);
      break;
    case Kind::kMetaspace:
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = replace_all(tokens[i], step.a, i == 0 && step.prepended ? "" : " ");
      }
      break;
  }
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  if (none_) {  // `tokenizers` joins with spaces when there is no decoder
    std::string out;
    for (size_t i = 0; i < tokens.size(); ++i) out += (i ? " " : "") + tokens[i];
    return out;
  }
  for (const Step& step : steps_) apply(step, tokens);
  return join(tokens);
}

std::string TokenDecoder::bytes(const std::string& token) const {
  std::string out = token;
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kByteLevel: out = byte_level_bytes(out); break;
      case Kind::kReplace: out = replace_all(out, step.a, step.b); break;
      case Kind::kMetaspace: out = replace_all(out, step.a, " "); break;
      case Kind::kByteFallback:
        if (const int byte = fallback_byte(out); byte >= 0) out = std::string(1, char(byte));
        break;
      case Kind::kFuse:
      case Kind::kStrip: break;
    }
  }
  return out;
}

}  // namespace retort
