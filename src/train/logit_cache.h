// What a teacher says about a text, kept on disk: the largest log-probabilities of every position. A later run over the same text in the same order
// reads them instead of running the teacher.
//
// Layer: train, torch-free. read() may be called from several threads; everything else belongs to one loop.
//
//   FOLDER/index.json   {"format": "retort-logits", "version": 1, "made_of": {...}}: whose logits of what; a cache of anything else is refused
//   FOLDER/rows.bin     a record per row of the stage's order, the first row first; little-endian
//
// A record is: u64 hash of the row's tokens and where its sequences begin; u64 FNV-1a of what follows; then, for `seq` positions one after the other each,
//   ids     [seq, k]  u16, or u32 where the vocabulary has more than 65,536 tokens; rising within a position
//   log p   [seq, k]  f16, of softmax(logits / temperature)
//   rest    [seq]     f16, 1 - sum of those p
// so a token takes k * (2 or 4, + 2) + 2 bytes: 130 for 32 of a vocabulary of 65,536 or fewer. As read, p and the rest of a position are divided by
// their sum; a run that writes a cache trains on what it will read from it.
//
// Records are appended as batches are computed. Half a record at the end of the file, left by a process that was killed, is no record; the next
// writer overwrites it. Everything that a file can say is checked, and one that lies is an error, never memory out of bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/append_file.h"
#include "train/stage.h"

namespace retort::train {

// Of all positions of a row.
struct TopLogits {
  std::vector<int32_t> ids;    // [seq, k], rising
  std::vector<float> log_p;    // [seq, k]
  std::vector<float> rest;     // [seq]
};

struct LogitShape {
  int seq = 0, top_k = 0, vocab_size = 0;   // top_k at most vocab_size
  int64_t bytes_per_token() const { return int64_t(top_k) * ((vocab_size > 65536 ? 4 : 2) + 2) + 2; }
};

class LogitCache {
 public:
  // A folder that is not there is made at the first append(). One that holds something else, or a cache of other things than `made_of`, is an error
  // that says what differs.
  static Result<std::shared_ptr<LogitCache>> open(const std::string& folder, const nlohmann::json& made_of, LogitShape shape);
  ~LogitCache();

  const LogitShape& shape() const { return shape_; }
  int64_t rows() const { return rows_; }
  // A row of the order; its hash is row_hash()'s. row < rows().
  Result<TopLogits> read(int64_t row, uint64_t hash) const;
  // Row rows(). `logits` becomes what read() gives.
  Status append(uint64_t hash, TopLogits& logits);
  // What was appended is in the file.
  Status flush();
  // What read() would give, of a row that is not kept.
  Result<TopLogits> rounded(const TopLogits& logits) const;

 private:
  LogitCache(std::string folder, nlohmann::json made_of, LogitShape shape) : folder_(std::move(folder)), made_of_(std::move(made_of)), shape_(shape) {}
  int64_t record_bytes() const { return 16 + shape_.seq * shape_.bytes_per_token(); }
  Status open_rows();
  Status begin_writing();
  std::string encode(const TopLogits& logits) const;
  Result<TopLogits> decode(std::string_view payload, int64_t row) const;

  std::string folder_;
  nlohmann::json made_of_;
  LogitShape shape_;
  int64_t rows_ = 0;
  int rows_fd_ = -1, lock_fd_ = -1;
  std::optional<AppendFile> out_;
};

// Of row r of a batch: its tokens, and where its sequences begin.
uint64_t row_hash(const Batch& batch, int row);

}  // namespace retort::train
