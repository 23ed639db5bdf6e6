#include "io/pretokenizer.h"
#include "io/tokenizer_json_fields.h"
#include "io/utf8.h"

namespace retort {

using nlohmann::json;

Result<Normalizer> Normalizer::make(const json& spec, const std::string& where) {
  Normalizer out;
  const auto add = [&](const std::string& type, const json& step, const std::string& at) { return out.add(type, step, at); };
  if (!spec.is_null()) RETORT_RETURN_IF_ERROR(for_each_step(spec, "normalizers", where, add));
  return out;
}

Status Normalizer::add(const std::string& type, const json& spec, const std::string& where) {
  Step step;
  step.kind = Kind::kForm;
  if (type == "NFC") {
    step.form = unicode::Form::kNfc;
  } else if (type == "NFD") {
    step.form = unicode::Form::kNfd;
  } else if (type == "NFKC") {
    step.form = unicode::Form::kNfkc;
  } else if (type == "NFKD") {
    step.form = unicode::Form::kNfkd;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    RETORT_TRY(step.a, json_string(spec, "prepend", where));
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    RETORT_RETURN_IF_ERROR(read_replacement(spec, where, step.a, step.b));
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    RETORT_TRY(step.left, json_bool(spec, "strip_left", true, where));
    RETORT_TRY(step.right, json_bool(spec, "strip_right", true, where));
  } else {
    return invalid(where, ": normalizer '", type, "' is not supported; supported are Sequence, NFC, NFD, NFKC, NFKD, ",
                   "Prepend, Replace, Lowercase, Strip");
  }
  steps_.push_back(std::move(step));
  return {};
}

namespace {

std::string strip(std::string_view text, bool left, bool right) {
  size_t first = text.size(), last = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t here = pos;
    if (unicode::is_space(utf8::next(text, pos))) continue;
    if (first == text.size()) first = here;
    last = pos;
  }
  if (last == 0) return std::string(left || right ? "" : text);
  const size_t begin = left ? first : 0, end = right ? last : text.size();
  return std::string(text.substr(begin, end - begin));
}

}  // namespace

std::string Normalizer::run(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kForm: out = unicode::normalize(out, step.form); break;
      case Kind::kPrepend: if (!out.empty()) out.insert(0, step.a); break;
      case Kind::kReplace: out = replace_all(out, step.a, step.b); break;
      case Kind::kLowercase: out = unicode::lowercase(out); break;
      case Kind::kStrip: out = strip(out, step.left, step.right); break;
    }
  }
  return out;
}

}  // namespace retort
