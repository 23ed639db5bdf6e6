#include "eval/tasks/encoding.h"

#include <algorithm>

#include "eval/tasks/python_text.h"

namespace retort::harness {

RequestEncoder::RequestEncoder(Tokenizer tokenizer, EncodingOptions options)
    : tokenizer_(std::move(tokenizer)), options_(options), prefix_(tokenizer_.bos_id() >= 0 ? tokenizer_.bos_id() : tokenizer_.eos_id()) {
  if (prefix_ >= 0) prefix_text_ = tokenizer_.decode(std::vector<int32_t>{prefix_});
}

Result<int> RequestEncoder::prefix() const {
  if (prefix_ < 0) return invalid("the tokenizer has neither a BOS nor an EOS token for an empty context");
  return int(prefix_);
}

// A text that begins with BOS gets no second one.
Result<std::vector<int>> RequestEncoder::ids(std::string_view text) const {
  const bool has_prefix = !prefix_text_.empty() && text.starts_with(prefix_text_);
  RETORT_TRY(const auto found, tokenizer_.encode(text, {.add_special = options_.add_bos == AddBos::kAuto && !has_prefix}));
  std::vector<int> out;
  if (options_.add_bos == AddBos::kYes && !has_prefix && tokenizer_.bos_id() >= 0) out.push_back(tokenizer_.bos_id());
  out.insert(out.end(), found.begin(), found.end());
  return out;
}

// Ids of the context alone, then what follows as many ids in the whole: not always the whole's own beginning.
Result<Continuation> RequestEncoder::pair(std::string_view context, std::string_view continuation) const {
  Continuation out;
  if (context.empty()) {
    RETORT_TRY(const auto found, tokenizer_.encode(continuation, {.add_special = false}));
    out.ids.assign(found.begin(), found.end());
    RETORT_TRY(const int first, prefix());
    out.context = {first};
    if (!out.ids.empty() && out.ids.front() == first) out.ids.erase(out.ids.begin());
    return out;
  }
  const size_t cut = context.size() - trailing_space_bytes(context);  // spaces belong to the token after them
  RETORT_TRY(std::vector<int> whole, ids(cat(context, continuation)));
  RETORT_TRY(out.context, ids(context.substr(0, cut)));
  whole.erase(whole.begin(), whole.begin() + std::min<ptrdiff_t>(ptrdiff_t(out.context.size()), ptrdiff_t(whole.size())));
  out.ids = std::move(whole);
  return out;
}

// Every token is scored once; a window that is not the first sees as much before its tokens as the model can.
Result<std::vector<Continuation>> RequestEncoder::windows(std::string_view text) const {
  RETORT_TRY(const std::vector<int> all, ids(text));
  RETORT_TRY(const int before, prefix());
  const auto at = [&](int64_t index) { return all.begin() + index; };
  const int64_t total = int64_t(all.size()), most = options_.max_length;
  std::vector<Continuation> out;
  for (int64_t done = 0; done < total;) {
    const int64_t count = std::min(most, total - done), end = done + count;
    if (done == 0) out.push_back({{before}, {at(0), at(end)}});
    else out.push_back({{at(end - most - 1), at(done)}, {at(done), at(end)}});
    done = end;
  }
  return out;
}

Result<std::vector<Continuation>> RequestEncoder::encode(const Request& request, Kind kind, const std::string& where) const {
  const auto explained = [&](const Error& error) { return invalid(where, ": ", error.message); };
  if (kind == Kind::kRolling) {
    auto found = windows(request.continuation);
    if (!found.ok()) return explained(found.error());
    return found;
  }
  auto found = pair(request.context, request.continuation);
  if (!found.ok()) return explained(found.error());
  const int64_t most = options_.max_length, scored = int64_t(found->ids.size()), before = int64_t(found->context.size());
  if (scored == 0 || before == 0) return invalid(where, ": nothing is left to score after the tokenizer");
  if (scored > most) return invalid(where, ": a continuation of ", scored, " tokens; the model sees ", most);
  // Too long: the beginning goes, and the last id is scored without being read.
  if (before + scored > most + 1) found->context.erase(found->context.begin(), found->context.end() - (most + 1 - scored));
  std::vector<Continuation> out;
  out.push_back(std::move(*found));
  return out;
}

}  // namespace retort::harness
