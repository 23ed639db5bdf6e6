#include "train/data.h"

#include <algorithm>
#include <numeric>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "io/corpus.h"

namespace retort::train {
namespace {

constexpr size_t kLeastPassage = 8192;   // bytes
constexpr size_t kBytesPerToken = 4;
constexpr size_t kRowsPerPassage = 3;

struct Random {
  uint64_t state;
  uint64_t next() { return state = mix_seed(state, 0x9e3779b97f4a7c15ull); }
  // Uniform in [0, n).
  uint64_t below(uint64_t n) { return uint64_t((static_cast<unsigned __int128>(next()) * n) >> 64); }
};

// A place to cut near `target` and not before `least`: after a blank line, otherwise after a line or a word, never inside a character.
size_t cut_near(std::string_view text, size_t least, size_t target) {
  for (const std::string_view mark : {"\n\n", "\n", " "}) {
    const size_t at = text.rfind(mark, target);
    if (at != std::string_view::npos && at >= least) return std::min(text.size(), at + mark.size());
  }
  size_t end = target;
  while (end < text.size() && (uint8_t(text[end]) & 0xc0) == 0x80) ++end;
  return end;
}

// The end of the piece of about `size` bytes that starts at `first`.
size_t piece_end(std::string_view text, size_t first, size_t size) {
  return text.size() - first <= size + size / 2 ? text.size() : cut_near(text, first + size / 2, first + size);
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

uint64_t mix_seed(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (a + 1) + 0xd1b54a32d192ed03ull * b;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

Result<TrainingText> TrainingText::load(const std::vector<std::string>& files, double held_out) {
  if (files.empty()) return invalid("no training text: name files with --data, or under data.train in the recipe");
  RETORT_TRY(auto read, read_corpus(files));
  std::vector<Document> documents;
  for (auto& document : read) {
    if (!is_blank(document.text)) documents.push_back({std::move(document.text), std::move(document.where)});
  }
  if (documents.empty()) return invalid(files.front(), files.size() > 1 ? " and others" : "", ": no text but blanks in it");
  return from_documents(std::move(documents), held_out);
}

Result<TrainingText> TrainingText::from_documents(std::vector<Document> documents, double held_out) {
  TrainingText text;
  uint64_t all = kFnvStart;
  std::vector<std::pair<uint64_t, Document>> held;
  for (auto& document : documents) {
    all = fnv1a(document.text, all);
    const uint64_t mark = mix_seed(fnv1a(document.text), 1);
    if (double(mark >> 11) * 0x1p-53 < held_out) held.emplace_back(mark, std::move(document));
    else text.train_.push_back(std::move(document));
  }
  std::stable_sort(held.begin(), held.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [mark, document] : held) text.held_out_.push_back(std::move(document));
  // Few documents may all fall on one side: then the last one, or the tail of the only one, changes sides.
  if (held_out > 0 && text.held_out_.empty() && text.train_.size() > 1) {
    text.held_out_.push_back(std::move(text.train_.back()));
    text.train_.pop_back();
  } else if (held_out > 0 && text.held_out_.empty() && text.train_.size() == 1) {
    auto& only = text.train_[0];
    const auto target = size_t(double(only.text.size()) * (1 - held_out));
    const size_t end = cut_near(only.text, target / 2, target);
    if (end > 0 && end < only.text.size()) {
      text.held_out_.push_back({only.text.substr(end), only.where});
      only.text.resize(end);
    }
  } else if (text.train_.empty() && text.held_out_.size() > 1) {
    text.train_.push_back(std::move(text.held_out_.back()));
    text.held_out_.pop_back();
  }
  if (text.train_.empty()) return invalid("no training text: no document has any text in it");
  text.hash_ = hex(all);
  return text;
}

Status TrainingText::write_held_out(const std::string& path) const {
  std::string out;
  for (const auto& document : held_out_) {
    out += nlohmann::json{{"text", document.text}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return write_text_file(path, out);
}

TokenStream::TokenStream(std::shared_ptr<const TrainingText> text, Encoder encode, StreamOptions options)
    : text_(std::move(text)), encode_(std::move(encode)), options_(options), rows_(size_t(options.rows)) {
  cut_passages();
  shuffle();
}

void TokenStream::cut_passages() {
  const size_t size = std::max(kLeastPassage, kRowsPerPassage * kBytesPerToken * size_t(options_.seq));
  const auto& documents = text_->train();
  for (size_t d = 0; d < documents.size(); ++d) {
    const std::string_view all = documents[d].text;
    for (size_t first = 0; first < all.size();) {
      const size_t end = piece_end(all, first, size);
      passages_.push_back({uint32_t(d), first, end - first});
      first = end;
    }
  }
}

void TokenStream::shuffle() {
  order_.resize(passages_.size());
  std::iota(order_.begin(), order_.end(), 0u);
  Random random{mix_seed(options_.seed, uint64_t(epoch_), 0x5fu)};
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
}

Status TokenStream::tokenise(Row& row) {
  const auto& passage = passages_[size_t(row.passage)];
  const auto& document = text_->train()[passage.document];
  auto ids = encode_(std::string_view(document.text).substr(passage.first, passage.size));
  if (!ids.ok()) return invalid(document.where, ": ", ids.error().message);
  for (int32_t id : *ids) {
    if (id < 0 || id >= options_.vocab_size) {
      return invalid("the tokenizer gives id ", id, ", but the model has ", options_.vocab_size, " tokens: they do not belong together");
    }
  }
  row.tokens = std::move(*ids);
  return {};
}

Status TokenStream::open_next(Row& row) {
  if (next_ == int64_t(order_.size())) {
    ++epoch_;
    next_ = 0;
    shuffle();
  }
  row.passage = order_[size_t(next_++)];
  row.offset = 0;
  RETORT_RETURN_IF_ERROR(tokenise(row));
  empty_in_a_row_ = row.tokens.empty() ? empty_in_a_row_ + 1 : 0;
  if (empty_in_a_row_ > int64_t(passages_.size())) return invalid("the training text gives no tokens at all");
  return {};
}

Status TokenStream::fill(Row& row, Batch& batch) {
  const size_t end = batch.tokens.size() + size_t(options_.seq);
  while (batch.tokens.size() < end) {
    if (row.passage < 0 || row.offset >= row.tokens.size()) {
      RETORT_RETURN_IF_ERROR(open_next(row));
      continue;
    }
    batch.starts.push_back(int32_t(batch.tokens.size()));
    const size_t count = std::min(end - batch.tokens.size(), row.tokens.size() - row.offset);
    const auto from = row.tokens.begin() + std::ptrdiff_t(row.offset);
    batch.tokens.insert(batch.tokens.end(), from, from + std::ptrdiff_t(count));
    row.offset += count;
  }
  return {};
}

// In every row a passage of a sixth to a half of it is copied to a later place; the row then is one sequence, so that the copy can
// be predicted from the original.
void TokenStream::paste_repeats(Batch& batch) const {
  const int64_t seq = options_.seq;
  if (seq < 12) return;
  Random random{mix_seed(options_.seed, uint64_t(batches_), 0xc0b1u)};
  batch.starts.clear();
  for (int r = 0; r < batch.rows; ++r) {
    const int64_t row = r * seq;
    const int64_t length = seq / 6 + int64_t(random.below(uint64_t(seq / 2 - seq / 6 + 1)));
    const int64_t from = int64_t(random.below(uint64_t(seq - 2 * length + 1)));
    const int64_t to = from + length + int64_t(random.below(uint64_t(seq - from - 2 * length + 1)));
    std::copy_n(batch.tokens.begin() + row + from, length, batch.tokens.begin() + row + to);
    batch.starts.push_back(int32_t(row));
  }
}

Result<Batch> TokenStream::next() {
  Batch batch;
  batch.rows = options_.rows;
  batch.seq = options_.seq;
  batch.tokens.reserve(size_t(batch.rows) * size_t(batch.seq));
  for (auto& row : rows_) RETORT_RETURN_IF_ERROR(fill(row, batch));
  if (options_.repeat_every > 0 && batches_ % options_.repeat_every == options_.repeat_every - 1) paste_repeats(batch);
  ++batches_;
  return batch;
}

nlohmann::json TokenStream::cursor() const {
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& row : rows_) rows.push_back({row.passage, row.offset});
  return {{"epoch", epoch_}, {"next", next_}, {"batches", batches_}, {"rows", rows}};
}

Status TokenStream::restore(const nlohmann::json& cursor) {
  const auto bad = [] { return invalid("the checkpoint's place in the training text makes no sense"); };
  const auto whole = [&](const char* key, int64_t most) {
    const bool good = cursor.is_object() && cursor.contains(key) && cursor[key].is_number_integer() && cursor[key].get<int64_t>() >= 0 &&
                      cursor[key].get<int64_t>() <= most;
    return good ? cursor[key].get<int64_t>() : -1;
  };
  const int64_t epoch = whole("epoch", INT64_MAX), next = whole("next", int64_t(order_.size())), batches = whole("batches", INT64_MAX);
  if (epoch < 0 || next < 0 || batches < 0 || !cursor.contains("rows") || cursor["rows"].size() != rows_.size()) return bad();
  epoch_ = epoch;
  next_ = next;
  batches_ = batches;
  shuffle();
  for (size_t r = 0; r < rows_.size(); ++r) {
    const auto& saved = cursor["rows"][r];
    if (!saved.is_array() || saved.size() != 2 || !saved[0].is_number_integer() || !saved[1].is_number_integer()) return bad();
    rows_[r].passage = saved[0].get<int64_t>();
    if (rows_[r].passage >= int64_t(passages_.size())) return bad();
    if (rows_[r].passage < 0) continue;
    RETORT_RETURN_IF_ERROR(tokenise(rows_[r]));
    rows_[r].offset = std::min(rows_[r].tokens.size(), size_t(std::max<int64_t>(0, saved[1].get<int64_t>())));
  }
  return {};
}

}  // namespace retort::train
