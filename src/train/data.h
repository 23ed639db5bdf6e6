// Training text: documents split by hash into train and held-out, cut into passages, tokenised when their turn comes, packed into
// rows without padding.
//
// Layer: train, torch-free. TrainingText is immutable after loading; a TokenStream belongs to one loop.
//
// A passage is a piece of one document, about kRowsPerPassage rows long and at least kLeastPassage bytes, cut where a paragraph ends. The
// order of the passages is a permutation drawn from the seed, a new one every epoch. Each row of a batch reads a passage of its own to
// the end before it takes the next, so a batch mixes as many documents as it has rows. Nothing is tokenised before it is
// needed: a run over a few hundred thousand tokens of a large corpus starts at once, and a resumed one tokenises only the
// passages that were open.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/stage.h"

namespace retort::train {

using Encoder = std::function<Result<std::vector<int32_t>>(std::string_view)>;

struct Document {
  std::string text;
  std::string where;  // "corpus.jsonl:12", for messages
};

class TrainingText {
 public:
  // Reads every file. A corpus that cannot be read, is binary, or holds no text is an error.
  static Result<TrainingText> load(const std::vector<std::string>& files, double held_out);
  static Result<TrainingText> from_documents(std::vector<Document> documents, double held_out);

  const std::vector<Document>& train() const { return train_; }
  // In an order that mixes the sources, the same for every run on the same files.
  const std::vector<Document>& held_out() const { return held_out_; }
  // One {"text": ...} a line.
  Status write_held_out(const std::string& path) const;
  // Of all texts: a resumed run must find the same.
  const std::string& hash() const { return hash_; }

 private:
  std::vector<Document> train_, held_out_;
  std::string hash_;
};

struct StreamOptions {
  int rows = 1;
  int seq = 512;
  uint64_t seed = 1;
  int repeat_every = 0;   // every n-th batch holds pasted repeats
  int vocab_size = 0;     // ids at or above it mean that the tokenizer does not fit the model
};

class TokenStream {
 public:
  TokenStream(std::shared_ptr<const TrainingText> text, Encoder encode, StreamOptions options);

  Result<Batch> next();

  // Exactly where the stream stands; a stream with the same text and options goes on from there.
  nlohmann::json cursor() const;
  Status restore(const nlohmann::json& cursor);
  int64_t epoch() const { return epoch_; }

 private:
  struct Passage {
    uint32_t document;
    size_t first, size;
  };
  struct Row {
    int64_t passage = -1;          // -1: none open
    size_t offset = 0;             // tokens already used
    std::vector<int32_t> tokens;
  };
  void cut_passages();
  void shuffle();
  Status open_next(Row& row);
  Status tokenise(Row& row);
  Status fill(Row& row, Batch& batch);
  void paste_repeats(Batch& batch) const;

  std::shared_ptr<const TrainingText> text_;
  Encoder encode_;
  StreamOptions options_;
  std::vector<Passage> passages_;
  std::vector<uint32_t> order_;    // of passages, this epoch
  std::vector<Row> rows_;
  int64_t epoch_ = 0, next_ = 0, batches_ = 0;
  int64_t empty_in_a_row_ = 0;
};

// A well-mixed function of its inputs: seeds for steps, batches, stages.
uint64_t mix_seed(uint64_t seed, uint64_t a, uint64_t b = 0);

}  // namespace retort::train
