#include "train/data.h"

#include <algorithm>
#include <set>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "io/corpus.h"

namespace retort::train {
namespace {

constexpr size_t kLeastPassage = 8192;   // bytes
constexpr size_t kBytesPerToken = 4;
constexpr size_t kRowsPerPassage = 3;

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

nlohmann::json messages_json(const std::vector<ChatMessage>& messages) {
  nlohmann::json out = nlohmann::json::array();
  for (const auto& m : messages) out.push_back({{"role", m.role}, {"content", m.content}});
  return out;
}

// As a line of a .jsonl.
std::string document_line(const Document& document) {
  nlohmann::json line;
  if (document.messages.empty()) line["text"] = document.text;
  else line[document.is_pair() ? "chosen" : "messages"] = messages_json(document.messages);
  if (document.is_pair()) line["rejected"] = messages_json(document.rejected);
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// What makes a document this document, and not another.
std::string identity(const Document& document) { return document.messages.empty() ? document.text : document_line(document); }

// What a document has in it as a whole: its text, or its conversations.
std::vector<uint64_t> contents(const Document& document) {
  if (document.messages.empty()) return {fnv1a(document.text)};
  std::vector<uint64_t> out = {fnv1a(messages_json(document.messages).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 1)};
  if (document.is_pair()) out.push_back(fnv1a(messages_json(document.rejected).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 1));
  return out;
}

Result<std::vector<Document>> read_documents(const std::vector<DataSource>& files) {
  std::vector<Document> documents;
  for (size_t s = 0; s < files.size(); ++s) {
    RETORT_TRY(auto read, read_corpus({files[s].file}));
    for (auto& document : read) {
      if (is_blank(document.text)) continue;
      if (!document.messages.empty()) document.text = {};
      documents.push_back({std::move(document.text), std::move(document.where), std::move(document.messages), std::move(document.rejected), int(s)});
    }
  }
  if (documents.empty()) return invalid(files.front().file, files.size() > 1 ? " and others" : "", ": no text but blanks in it");
  return documents;
}

}  // namespace

Status TrainingText::check_weighted(const std::vector<DataSource>& files, const TrainingText& text) {
  std::set<int> left;
  for (const auto& document : text.train_) left.insert(document.source);
  for (size_t s = 0; s < text.weights_.size(); ++s) {
    if (!left.count(int(s))) return invalid(files[s].file, ": it has a weight, but no document to train on is left of it");
  }
  return {};
}

Result<TrainingText> TrainingText::load(const std::vector<DataSource>& files, double held_out) {
  if (files.empty()) return invalid("no training text: name files with --data, or under data.train in the recipe");
  RETORT_TRY(auto documents, read_documents(files));
  RETORT_TRY(auto text, from_documents(std::move(documents), held_out, weights_of(files)));
  RETORT_RETURN_IF_ERROR(check_weighted(files, text));
  return text;
}

Result<TrainingText> TrainingText::load_own(const std::vector<DataSource>& files, const TrainingText& recipe) {
  RETORT_TRY(auto documents, read_documents(files));
  auto text = own_documents(std::move(documents), recipe, weights_of(files));
  if (!text.ok()) return invalid(files.front().file, files.size() > 1 ? " and others" : "", ": ", text.error().message);
  RETORT_RETURN_IF_ERROR(check_weighted(files, *text));
  return text;
}

Result<TrainingText> TrainingText::own_documents(std::vector<Document> documents, const TrainingText& recipe, std::vector<double> weights) {
  std::set<uint64_t> held;
  for (const auto& document : recipe.held_out_) {
    for (const uint64_t mark : contents(document)) held.insert(mark);
  }
  TrainingText text;
  text.weights_ = std::move(weights);
  uint64_t all = kFnvStart;
  for (auto& document : documents) {
    all = fnv1a(identity(document), all);
    if (!text.weights_.empty()) all = fnv1a(cat(document.source), all);
    const auto marks = contents(document);
    if (std::any_of(marks.begin(), marks.end(), [&](uint64_t mark) { return held.count(mark) > 0; })) continue;
    recipe.cut_held_tail(document);
    text.train_.push_back(std::move(document));
  }
  if (text.train_.empty()) return invalid("no text to train on: every document of it is held out");
  text.hash_ = hex(all);
  return text;
}

// The tail of a text that is the only one is held out: the same text elsewhere loses it too.
void TrainingText::cut_held_tail(Document& document) const {
  if (train_.size() != 1 || held_out_.size() != 1 || held_out_[0].where != train_[0].where) return;
  if (document.text == train_[0].text + held_out_[0].text) document.text.resize(train_[0].text.size());
}

std::string TrainingText::train_hash() const {
  uint64_t all = kFnvStart;
  for (const auto& document : train_) {
    all = fnv1a_item(identity(document), all);
    if (!weights_.empty()) all = fnv1a(cat(document.source), all);
  }
  return hex(all);
}

Result<TrainingText> TrainingText::from_documents(std::vector<Document> documents, double held_out, std::vector<double> weights) {
  TrainingText text;
  text.weights_ = std::move(weights);
  uint64_t all = kFnvStart;
  std::vector<std::pair<uint64_t, Document>> held;
  for (auto& document : documents) {
    const std::string what = identity(document);
    all = fnv1a(what, all);
    if (!text.weights_.empty()) all = fnv1a(cat(document.source), all);
    const uint64_t mark = mix_seed(fnv1a(what), 1);
    if (double(mark >> 11) * 0x1p-53 < held_out) held.emplace_back(mark, std::move(document));
    else text.train_.push_back(std::move(document));
  }
  std::stable_sort(held.begin(), held.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [mark, document] : held) text.held_out_.push_back(std::move(document));
  // Few documents may all fall on one side: then the last one, or the tail of the only one, changes sides.
  if (held_out > 0 && text.held_out_.empty() && text.train_.size() > 1) {
    text.held_out_.push_back(std::move(text.train_.back()));
    text.train_.pop_back();
  } else if (held_out > 0 && text.held_out_.empty() && text.train_.size() == 1 && text.train_[0].messages.empty()) {
    auto& only = text.train_[0];
    const auto target = size_t(double(only.text.size()) * (1 - held_out));
    const size_t end = cut_near(only.text, target / 2, target);
    if (end > 0 && end < only.text.size()) {
      text.held_out_.push_back({only.text.substr(end), only.where, {}, {}, only.source});
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
  for (const auto& document : held_out_) out += document_line(document) + "\n";
  return write_text_file(path, out);
}

Status check_ids(const std::vector<int32_t>& ids, int vocab_size) {
  for (int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return invalid("the tokenizer gives id ", id, ", but the model has ", vocab_size, " tokens: they do not belong together");
  }
  return {};
}

TokenStream::TokenStream(std::shared_ptr<const TrainingText> text, Encoders encode, StreamOptions options)
    : text_(std::move(text)),
      encode_(std::move(encode)),
      options_(options),
      passages_(cut_passages(*text_, options.seq)),
      order_(sources_of(*text_, passages_), text_->weights(), options.seed),
      rows_(size_t(options.rows)) {}

std::vector<TokenStream::Passage> TokenStream::cut_passages(const TrainingText& text, int seq) {
  const size_t size = std::max(kLeastPassage, kRowsPerPassage * kBytesPerToken * size_t(seq));
  std::vector<Passage> out;
  const auto& documents = text.train();
  for (size_t d = 0; d < documents.size(); ++d) {
    if (!documents[d].messages.empty()) out.push_back({uint32_t(d), 0, 0});
    const std::string_view all = documents[d].text;
    for (size_t first = 0; first < all.size();) {
      const size_t end = piece_end(all, first, size);
      out.push_back({uint32_t(d), first, end - first});
      first = end;
    }
  }
  return out;
}

std::vector<int> TokenStream::sources_of(const TrainingText& text, const std::vector<Passage>& passages) {
  std::vector<int> out;
  for (const auto& passage : passages) out.push_back(text.train()[passage.document].source);
  return out;
}

Status TokenStream::tokenise(Row& row) const {
  const auto& passage = passages_[size_t(row.passage)];
  const auto& document = text_->train()[passage.document];
  row.chat = !document.messages.empty();
  row.answers.clear();
  if (row.chat) {
    auto chat = encode_.chat(document.messages);
    if (!chat.ok()) return invalid(document.where, ": ", chat.error().message);
    row.tokens = std::move(chat->ids);
    row.answers = std::move(chat->answers);
  } else {
    auto ids = encode_.text(std::string_view(document.text).substr(passage.first, passage.size));
    if (!ids.ok()) return invalid(document.where, ": ", ids.error().message);
    row.tokens = std::move(*ids);
  }
  return check_ids(row.tokens, options_.vocab_size);
}

Status TokenStream::open_next(Row& row) {
  row.passage = int64_t(order_.next());
  row.offset = 0;
  RETORT_RETURN_IF_ERROR(tokenise(row));
  order_.count(int64_t(row.tokens.size()));
  empty_in_a_row_ = row.tokens.empty() ? empty_in_a_row_ + 1 : 0;
  if (empty_in_a_row_ > int64_t(passages_.size())) return invalid("the training text gives no tokens at all");
  return {};
}

// Where a row that goes on with this passage takes it up: text where it stopped, a conversation with as much before that as the row holds
// beside what is new, or beside half a row of it, and better after an answer than inside one.
size_t TokenStream::Row::begin(size_t seq) const {
  if (!chat || offset == 0) return offset;
  const size_t whole = tokens.size() > seq ? tokens.size() - seq : 0, half = offset > seq / 2 ? offset - seq / 2 : 0;
  const size_t least = std::min(whole, half);
  if (least == 0) return 0;
  for (const auto& [first, last] : answers) {
    if (last >= least && last <= offset) return last;
  }
  return least;
}

bool TokenStream::Row::is_label(size_t token) const {
  if (!chat) return true;
  if (token < offset) return false;
  return std::any_of(answers.begin(), answers.end(), [&](const auto& answer) { return answer.first <= token && token < answer.second; });
}

Status TokenStream::fill(Row& row, Batch& batch) {
  const size_t end = batch.tokens.size() + size_t(options_.seq);
  while (batch.tokens.size() < end) {
    if (row.passage < 0 || row.offset >= row.tokens.size()) {
      RETORT_RETURN_IF_ERROR(open_next(row));
      continue;
    }
    batch.starts.push_back(int32_t(batch.tokens.size()));
    const size_t begin = row.begin(size_t(options_.seq)), count = std::min(end - batch.tokens.size(), row.tokens.size() - begin);
    if (row.chat && batch.labels.empty()) batch.labels.assign(batch.tokens.size(), 1);
    if (row.chat || !batch.labels.empty()) {
      for (size_t i = begin; i < begin + count; ++i) batch.labels.push_back(row.is_label(i));
    }
    const auto from = row.tokens.begin() + std::ptrdiff_t(begin);
    batch.tokens.insert(batch.tokens.end(), from, from + std::ptrdiff_t(count));
    row.offset = begin + count;
  }
  return {};
}

// In every row a passage of a sixth to a half of it is copied to a later place; the row then is one sequence, so that the copy can
// be predicted from the original. Rows with conversations stay as they are.
void TokenStream::paste_repeats(Batch& batch) const {
  const int64_t seq = options_.seq;
  if (seq < 12) return;
  Random random{mix_seed(options_.seed, uint64_t(batches_), 0xc0b1u)};
  std::vector<int32_t> starts;
  for (int r = 0; r < batch.rows; ++r) {
    const int64_t row = r * seq;
    const int64_t length = seq / 6 + int64_t(random.below(uint64_t(seq / 2 - seq / 6 + 1)));
    const int64_t from = int64_t(random.below(uint64_t(seq - 2 * length + 1)));
    const int64_t to = from + length + int64_t(random.below(uint64_t(seq - from - 2 * length + 1)));
    const auto labels = batch.labels.begin() + row;
    if (!batch.labels.empty() && std::find(labels, labels + seq, 0) != labels + seq) {
      std::copy_if(batch.starts.begin(), batch.starts.end(), std::back_inserter(starts), [&](int32_t s) { return s >= row && s < row + seq; });
      continue;
    }
    std::copy_n(batch.tokens.begin() + row + from, length, batch.tokens.begin() + row + to);
    starts.push_back(int32_t(row));
  }
  batch.starts = std::move(starts);
}

Result<Batch> TokenStream::next() {
  Batch batch;
  batch.number = batches_;
  batch.rows = options_.rows;
  batch.seq = options_.seq;
  batch.tokens.reserve(size_t(batch.rows) * size_t(batch.seq));
  for (auto& row : rows_) RETORT_RETURN_IF_ERROR(fill(row, batch));
  if (options_.repeat_every > 0 && batches_ % options_.repeat_every == options_.repeat_every - 1) paste_repeats(batch);
  ++batches_;
  return batch;
}

Result<int64_t> TokenStream::epoch_tokens(ThreadPool& pool) const {
  constexpr size_t kTogether = 256;   // passages whose tokens exist at the same time
  const auto seq = size_t(options_.seq);
  Progress progress("counting the tokens of an epoch", int64_t(passages_.size()));
  int64_t tokens = 0;
  size_t room = seq;   // of the row that is being filled
  for (size_t first = 0; first < passages_.size(); first += kTogether) {
    if (interrupted()) return interrupted_error();
    std::vector<Row> rows(std::min(kTogether, passages_.size() - first));
    std::vector<Status> status(rows.size());
    pool.run_chunks(int64_t(rows.size()), [&](int64_t i) {
      rows[size_t(i)].passage = int64_t(first) + i;
      status[size_t(i)] = tokenise(rows[size_t(i)]);
    });
    for (size_t i = 0; i < rows.size(); ++i) {
      RETORT_RETURN_IF_ERROR(status[i]);
      Row& row = rows[i];
      while (row.offset < row.tokens.size()) {
        const size_t begin = row.begin(seq), count = std::min(room, row.tokens.size() - begin);
        row.offset = begin + count;
        tokens += int64_t(count);
        room = room > count ? room - count : seq;
      }
    }
    progress.update(int64_t(first + rows.size()));
  }
  if (tokens == 0) return invalid("the training text gives no tokens at all");
  return tokens;
}

nlohmann::json TokenStream::cursor() const {
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& row : rows_) rows.push_back({row.passage, row.offset});
  return {{"order", order_.cursor()}, {"batches", batches_}, {"rows", rows}};
}

Status TokenStream::restore(const nlohmann::json& cursor) {
  const auto bad = [] { return invalid("the checkpoint's place in the training text makes no sense"); };
  const auto whole = [](const nlohmann::json& value) { return value.is_number_integer() && value.get<int64_t>() >= -1; };
  if (!cursor.is_object() || !cursor.contains("order") || !cursor.contains("batches") || !cursor.contains("rows")) return bad();
  if (!whole(cursor["batches"]) || !cursor["rows"].is_array() || cursor["rows"].size() != rows_.size()) return bad();
  RETORT_RETURN_IF_ERROR(order_.restore(cursor["order"]));
  batches_ = std::max<int64_t>(0, cursor["batches"].get<int64_t>());
  for (size_t r = 0; r < rows_.size(); ++r) {
    const auto& saved = cursor["rows"][r];
    if (!saved.is_array() || saved.size() != 2 || !whole(saved[0]) || !whole(saved[1])) return bad();
    rows_[r].passage = saved[0].get<int64_t>();
    if (rows_[r].passage >= int64_t(passages_.size())) return bad();
    if (rows_[r].passage < 0) continue;
    RETORT_RETURN_IF_ERROR(tokenise(rows_[r]));
    rows_[r].offset = std::min(rows_[r].tokens.size(), size_t(std::max<int64_t>(0, saved[1].get<int64_t>())));
  }
  return {};
}

}  // namespace retort::train
