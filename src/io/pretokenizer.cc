#include "io/pretokenizer.h"

#include "io/tokenizer_json_fields.h"
#include "io/utf8.h"

namespace retort {

using nlohmann::json;

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  if (from.empty()) return std::string(text);
  size_t pos = 0;
  for (size_t hit; (hit = text.find(from, pos)) != std::string_view::npos; pos = hit + from.size()) {
    out.append(text.substr(pos, hit - pos)).append(to);
  }
  return out.append(text.substr(pos));
}

Result<PreTokenizer> PreTokenizer::make(const json& spec, const std::string& where) {
  PreTokenizer out;
  const auto add = [&](const std::string& type, const json& step, const std::string& at) { return out.add(type, step, at); };
  if (!spec.is_null()) RETORT_RETURN_IF_ERROR(for_each_step(spec, "pretokenizers", where, add));
  for (size_t i = 0; i < out.steps_.size(); ++i) {
    if (out.steps_[i].kind != Kind::kByteLevel) continue;
    if (i + 1 != out.steps_.size()) return invalid(where, ": ByteLevel is supported as the last pre-tokenizer only");
    out.byte_level_ = true;
  }
  return out;
}

Status PreTokenizer::add(const std::string& type, const json& spec, const std::string& where) {
  if (type == "Split") return add_split(spec, where);
  if (type == "Metaspace") return add_metaspace(spec, where);
  Step step;
  step.kind = Kind::kDigits;
  if (type == "Digits") {
    RETORT_TRY(step.individual, json_bool(spec, "individual_digits", false, where));
  } else if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
    RETORT_TRY(step.add_prefix_space, json_bool(spec, "add_prefix_space", true, where));
    RETORT_TRY(const bool use_regex, json_bool(spec, "use_regex", true, where));
    if (use_regex) {
      RETORT_TRY(step.pattern, make_split_pattern(kGpt2Regex, where));
    }
  } else if (type == "Punctuation") {
    step.kind = Kind::kPunctuation;
    if (spec.contains("behavior") && spec["behavior"] != "Isolated") {
      return invalid(where, ".behavior: Punctuation is supported with Isolated only");
    }
  } else if (type == "WhitespaceSplit") {
    step.kind = Kind::kWhitespaceSplit;
  } else {
    return invalid(where, ": pre-tokenizer '", type, "' is not supported; supported are Sequence, Split, Digits, ByteLevel, ",
                   "Metaspace, Punctuation, WhitespaceSplit");
  }
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::add_split(const json& spec, const std::string& where) {
  Step step;
  step.kind = Kind::kSplit;
  const json* pattern = json_member(spec, "pattern");
  if (pattern == nullptr || !pattern->is_object()) return invalid(where, ".pattern: an object is expected");
  if (pattern->contains("Regex")) {
    RETORT_TRY(const std::string regex, json_string(*pattern, "Regex", where + ".pattern"));
    RETORT_TRY(step.pattern, make_split_pattern(regex, where + ".pattern"));
  } else {
    RETORT_TRY(std::string text, json_string(*pattern, "String", where + ".pattern"));
    step.pattern = make_literal_pattern(std::move(text));
  }
  RETORT_TRY(const std::string behavior, json_string(spec, "behavior", where));
  RETORT_TRY(step.invert, json_bool(spec, "invert", false, where));
  constexpr const char* kNames[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  size_t i = 0;
  while (i < std::size(kNames) && behavior != kNames[i]) ++i;
  if (i == std::size(kNames)) return invalid(where, ".behavior: '", behavior, "' is not one of Removed, Isolated, ",
                                             "MergedWithPrevious, MergedWithNext, Contiguous");
  step.behavior = Behavior(i);
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::add_metaspace(const json& spec, const std::string& where) {
  Step step;
  step.kind = Kind::kMetaspace;
  RETORT_TRY(step.replacement, json_string(spec, "replacement", where));
  if (step.replacement.empty()) return invalid(where, ".replacement: one character is expected");
  RETORT_TRY(const bool prefix, json_bool(spec, "add_prefix_space", true, where));
  step.prepend_scheme = prefix ? "always" : "never";  // files older than prepend_scheme
  if (spec.contains("prepend_scheme")) {
    RETORT_TRY(step.prepend_scheme, json_string(spec, "prepend_scheme", where));
  }
  if (step.prepend_scheme != "always" && step.prepend_scheme != "first" && step.prepend_scheme != "never") {
    return invalid(where, ".prepend_scheme: '", step.prepend_scheme, "' is not one of always, first, never");
  }
  RETORT_TRY(step.split, json_bool(spec, "split", true, where));
  step.pattern = make_literal_pattern(step.replacement);
  step.behavior = Behavior::kMergedWithNext;
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::run_step(size_t index, std::string_view text, bool at_start, const Emit& emit) const {
  if (text.empty()) return {};
  if (index == steps_.size()) {
    emit(text);
    return {};
  }
  const Step& step = steps_[index];
  switch (step.kind) {
    case Kind::kSplit:
      return run_split(index, text, at_start, emit);
    case Kind::kMetaspace:
      return run_metaspace(index, text, at_start, emit);
    case Kind::kByteLevel: {
      std::string prefixed;
      if (step.add_prefix_space && text[0] != ' ') text = prefixed = cat(' ', text);
      return step.pattern ? run_split(index, text, at_start, emit) : run_step(index + 1, text, at_start, emit);
    }
    default:
      return run_classes(index, text, at_start, emit);
  }
}

// Cuts around the matches of the step's pattern.
Status PreTokenizer::run_split(size_t index, std::string_view text, bool at_start, const Emit& emit) const {
  const Step& step = steps_[index];
  const auto put = [&](size_t first, size_t last) {
    return run_step(index + 1, text.substr(first, last - first), at_start && first == 0, emit);
  };
  // The piece that waits for what follows it: [start, end), and whether its last part matched.
  size_t start = 0, end = 0;
  bool last_matched = false;
  const auto part = [&](size_t first, size_t last, bool matched) -> Status {
    if (first == last) return {};
    bool join = false;
    switch (step.behavior) {
      case Behavior::kRemoved:
        if (!matched) RETORT_RETURN_IF_ERROR(put(first, last));
        return {};
      case Behavior::kIsolated:
        return put(first, last);
      case Behavior::kMergedWithPrevious:
        join = matched && !last_matched && end > start;
        break;
      case Behavior::kMergedWithNext:
        join = last_matched && !matched;
        break;
      case Behavior::kContiguous:
        join = end > start && last_matched == matched;
        break;
    }
    if (!join) {
      if (end > start) RETORT_RETURN_IF_ERROR(put(start, end));
      start = first;
    }
    end = last;
    last_matched = matched;
    return {};
  };
  size_t pos = 0, search = 0, first = 0, last = 0;
  while (search <= text.size()) {
    RETORT_TRY(const bool found, step.pattern->find(text, search, first, last));
    if (!found) break;
    if (first == last) {  // an empty match cuts nothing
      if (last >= text.size()) break;
      search = last;
      utf8::next(text, search);
      continue;
    }
    RETORT_RETURN_IF_ERROR(part(pos, first, step.invert));
    RETORT_RETURN_IF_ERROR(part(first, last, !step.invert));
    pos = search = last;
  }
  RETORT_RETURN_IF_ERROR(part(pos, text.size(), step.invert));
  if (end > start) RETORT_RETURN_IF_ERROR(put(start, end));
  return {};
}

// Digits, Punctuation and WhitespaceSplit: a class of characters decides where to cut.
Status PreTokenizer::run_classes(size_t index, std::string_view text, bool at_start, const Emit& emit) const {
  const Step& step = steps_[index];
  const auto hit = [&](char32_t c) {
    if (step.kind == Kind::kDigits) return unicode::is_numeric(c);
    if (step.kind == Kind::kWhitespaceSplit) return unicode::is_space(c);
    return unicode::is_punctuation(c) || (c < 128 && c > 32 && c != 127 && !unicode::is_letter(c) && !unicode::is_number(c));
  };
  const bool runs = step.kind == Kind::kDigits && !step.individual;
  const auto put = [&](size_t first, size_t last) {
    return run_step(index + 1, text.substr(first, last - first), at_start && first == 0, emit);
  };
  size_t start = 0;
  bool previous = false;
  for (size_t pos = 0; pos < text.size();) {
    const size_t here = pos;
    const bool now = hit(utf8::next(text, pos));
    if (here > start && (now != previous || (now && !runs))) {
      if (!(previous && step.kind == Kind::kWhitespaceSplit)) RETORT_RETURN_IF_ERROR(put(start, here));
      start = here;
    }
    previous = now;
  }
  if (previous && step.kind == Kind::kWhitespaceSplit) return {};
  return put(start, text.size());
}

Status PreTokenizer::run_metaspace(size_t index, std::string_view text, bool at_start, const Emit& emit) const {
  const Step& step = steps_[index];
  std::string marked = replace_all(text, " ", step.replacement);
  const bool prepend = step.prepend_scheme == "always" || (step.prepend_scheme == "first" && at_start);
  if (prepend && marked.compare(0, step.replacement.size(), step.replacement) != 0) marked.insert(0, step.replacement);
  return step.split ? run_split(index, marked, at_start, emit) : run_step(index + 1, marked, at_start, emit);
}

}  // namespace retort
