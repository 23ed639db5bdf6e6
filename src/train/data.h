// Training text: documents split by hash into train and held-out, cut into passages, tokenised when their turn comes, packed into
// rows without padding.
//
// Layer: train, torch-free. TrainingText is immutable after loading; a TokenStream belongs to one loop.
//
// A passage is a piece of one document, about kRowsPerPassage rows long and at least kLeastPassage bytes, cut where a paragraph ends. The
// order of the passages is draw_order.h's. Each row of a batch reads a passage of its own to
// the end before it takes the next, so a batch mixes as many documents as it has rows. Nothing is tokenised before it is
// needed: a run over a few hundred thousand tokens of a large corpus starts at once, and a resumed one tokenises only the
// passages that were open.
//
// A conversation is one passage. Its labels are the tokens of its answers, each of them once and with what it answers before it: where
// a row ends inside a conversation, the next row begins with that conversation anew, and what was in the row before is context there,
// without labels. One that is longer than a row goes on after an answer, or else wherever it must, so that the tokens that are new have at
// least half a row before them, or all that there is. A pair of answers is read here as the conversation with the chosen one;
// preference_data.h reads both.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/threads.h"
#include "train/chat_data.h"
#include "train/draw_order.h"
#include "train/random.h"
#include "train/recipe.h"
#include "train/stage.h"

namespace retort::train {

using Encoder = std::function<Result<std::vector<int32_t>>(std::string_view)>;

struct Encoders {
  Encoder text;
  ChatEncoder chat;
  std::string tokenizer = {};   // its fingerprint, 16 hex digits
  int tokens = 0;               // that it has; 0: not known
};

// Plain text, a conversation, or a pair: a conversation whose last message is given twice.
struct Document {
  std::string text;                        // plain text's
  std::string where;                       // "corpus.jsonl:12", for messages
  std::vector<ChatMessage> messages = {};  // a conversation's; a pair's with the chosen answer
  std::vector<ChatMessage> rejected = {};  // a pair's with the other answer
  int source = 0;                          // which of the recipe's files it is from

  bool is_pair() const { return !rejected.empty(); }
};

class TrainingText {
 public:
  // Reads every file. A corpus that cannot be read, is binary, or holds no text is an error, and so is a weighted one that the split leaves
  // nothing to train on.
  static Result<TrainingText> load(const std::vector<DataSource>& files, double held_out);
  // A weight per source, or none at all.
  static Result<TrainingText> from_documents(std::vector<Document> documents, double held_out, std::vector<double> weights = {});
  // A stage's own: nothing is held out but the documents that `recipe` holds out, wherever they come again, a conversation also as one of a
  // pair's. Documents are compared as a whole.
  static Result<TrainingText> load_own(const std::vector<DataSource>& files, const TrainingText& recipe);
  static Result<TrainingText> own_documents(std::vector<Document> documents, const TrainingText& recipe, std::vector<double> weights = {});

  const std::vector<Document>& train() const { return train_; }
  // In an order that mixes the sources, the same for every run on the same files.
  const std::vector<Document>& held_out() const { return held_out_; }
  // Of each source; none: sources count by their size.
  const std::vector<double>& weights() const { return weights_; }
  // A .jsonl, in the form in which corpora are read.
  Status write_held_out(const std::string& path) const;
  // Of all texts, and of what is in which source when these are weighted: a resumed run must find the same.
  const std::string& hash() const { return hash_; }
  // The same of what is trained on alone, in its order.
  std::string train_hash() const;

 private:
  static Status check_weighted(const std::vector<DataSource>& files, const TrainingText& text);
  void cut_held_tail(Document& document) const;
  std::vector<Document> train_, held_out_;
  std::vector<double> weights_;
  std::string hash_;
};

struct StreamOptions {
  int rows = 1;
  int seq = 512;
  uint64_t seed = 1;
  int repeat_every = 0;   // every n-th batch holds pasted repeats, in rows that are plain text
  int vocab_size = 0;     // ids at or above it mean that the tokenizer does not fit the model
};

// Where a stage's batches come from.
class BatchStream {
 public:
  virtual ~BatchStream() = default;
  virtual Result<Batch> next() = 0;
  // Exactly where the stream stands; a stream with the same text and options goes on from there.
  virtual nlohmann::json cursor() const = 0;
  virtual Status restore(const nlohmann::json& cursor) = 0;
};

class TokenStream : public BatchStream {
 public:
  TokenStream(std::shared_ptr<const TrainingText> text, Encoders encode, StreamOptions options);

  Result<Batch> next() override;
  nlohmann::json cursor() const override;
  Status restore(const nlohmann::json& cursor) override;
  int64_t epoch() const { return order_.epoch(); }
  // Tokens of the rows, one after another, that read every passage once: more than the text has where rows take conversations up again.
  // Tokenises all of it; nothing of the stream moves. Ctrl-C is an error.
  Result<int64_t> epoch_tokens(ThreadPool& pool) const;

 private:
  struct Passage {
    uint32_t document;
    size_t first, size;
  };
  struct Row {
    int64_t passage = -1;          // -1: none open
    size_t offset = 0;             // tokens already used
    std::vector<int32_t> tokens;
    bool chat = false;
    std::vector<std::pair<size_t, size_t>> answers;  // of a conversation

    size_t begin(size_t seq) const;
    bool is_label(size_t token) const;
  };
  static std::vector<Passage> cut_passages(const TrainingText& text, int seq);
  static std::vector<int> sources_of(const TrainingText& text, const std::vector<Passage>& passages);
  Status open_next(Row& row);
  Status tokenise(Row& row) const;
  Status fill(Row& row, Batch& batch);
  void paste_repeats(Batch& batch) const;

  std::shared_ptr<const TrainingText> text_;
  Encoders encode_;
  StreamOptions options_;
  std::vector<Passage> passages_;
  DrawOrder order_;                // of passages
  std::vector<Row> rows_;
  int64_t batches_ = 0;
  int64_t empty_in_a_row_ = 0;
};

// Whether the ids are the model's.
Status check_ids(const std::vector<int32_t>& ids, int vocab_size);

}  // namespace retort::train
