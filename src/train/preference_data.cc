#include "train/preference_data.h"

#include <algorithm>

namespace retort::train {

PairStream::PairStream(std::shared_ptr<const TrainingText> text, ChatEncoder encode, PairOptions options)
    : text_(std::move(text)),
      encode_(std::move(encode)),
      options_(options),
      pairs_(pairs_of(*text_)),
      order_(sources_of(*text_, pairs_), text_->weights(), options.seed) {}

std::vector<uint32_t> PairStream::pairs_of(const TrainingText& text) {
  std::vector<uint32_t> out;
  for (size_t d = 0; d < text.train().size(); ++d) {
    if (text.train()[d].is_pair()) out.push_back(uint32_t(d));
  }
  return out;
}

std::vector<int> PairStream::sources_of(const TrainingText& text, const std::vector<uint32_t>& pairs) {
  std::vector<int> out;
  for (const uint32_t d : pairs) out.push_back(text.train()[d].source);
  return out;
}

Result<PairStream::Answered> PairStream::encode(const std::vector<ChatMessage>& messages) const {
  RETORT_TRY(auto chat, encode_(messages));
  RETORT_RETURN_IF_ERROR(check_ids(chat.ids, options_.vocab_size));
  if (chat.answers.empty()) return invalid("a pair's answers need a prompt before them");
  const auto [first, last] = chat.answers.back();
  const size_t begin = first - std::min(first, size_t(options_.max_prompt)), end = std::min(last, begin + size_t(options_.seq));
  Answered out;
  out.ids.assign(chat.ids.begin() + std::ptrdiff_t(begin), chat.ids.begin() + std::ptrdiff_t(end));
  out.first = first - begin;
  return out;
}

Result<Batch> PairStream::next() {
  std::vector<Answered> rows;
  size_t longest = 0;
  for (int i = 0; i < options_.pairs; ++i) {
    const Document& document = text_->train()[pairs_[order_.next()]];
    int64_t tokens = 0;
    for (const auto* messages : {&document.messages, &document.rejected}) {
      auto row = encode(*messages);
      if (!row.ok()) return invalid(document.where, ": ", row.error().message);
      tokens += int64_t(row->ids.size());
      longest = std::max(longest, row->ids.size());
      rows.push_back(std::move(*row));
    }
    order_.count(tokens);
  }
  Batch batch;
  batch.rows = int(rows.size());
  batch.seq = int(longest);
  for (const Answered& row : rows) {
    batch.starts.push_back(int32_t(batch.tokens.size()));
    batch.tokens.insert(batch.tokens.end(), row.ids.begin(), row.ids.end());
    batch.labels.insert(batch.labels.end(), row.first, 0);
    batch.labels.insert(batch.labels.end(), row.ids.size() - row.first, 1);
    const size_t rest = longest - row.ids.size();
    if (rest > 0) batch.starts.push_back(int32_t(batch.tokens.size()));
    batch.tokens.insert(batch.tokens.end(), rest, 0);
    batch.labels.insert(batch.labels.end(), rest, 0);
    batch.padding += int64_t(rest);
  }
  return batch;
}

}  // namespace retort::train
