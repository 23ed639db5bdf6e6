// Pairs of answers as batches: the data of dpo.
//
// Layer: train, torch-free. Belongs to one loop.
//
// A pair's two rows are the same prompt with the chosen and with the rejected answer, each as the teacher's chat template writes it up
// to the answer's end; labels are the tokens of that last answer. A prompt keeps its last `max_prompt` tokens; what is then longer than
// `seq` loses the end of its answer. Rows of a batch are as long as its longest conversation: the others are filled up with
// a second sequence without labels. Which pairs come when is draw_order.h's.
#pragma once

#include <memory>
#include <vector>

#include "train/data.h"

namespace retort::train {

struct PairOptions {
  int pairs = 1;
  int seq = 512;
  int max_prompt = 256;   // below seq
  uint64_t seed = 1;
  int vocab_size = 0;
};

class PairStream : public BatchStream {
 public:
  // The text has at least one pair.
  PairStream(std::shared_ptr<const TrainingText> text, ChatEncoder encode, PairOptions options);

  Result<Batch> next() override;
  nlohmann::json cursor() const override { return order_.cursor(); }
  Status restore(const nlohmann::json& cursor) override { return order_.restore(cursor); }

 private:
  struct Answered {
    std::vector<int32_t> ids;
    size_t first = 0;         // of the answer
  };
  static std::vector<uint32_t> pairs_of(const TrainingText& text);
  static std::vector<int> sources_of(const TrainingText& text, const std::vector<uint32_t>& pairs);
  Result<Answered> encode(const std::vector<ChatMessage>& messages) const;

  std::shared_ptr<const TrainingText> text_;
  ChatEncoder encode_;
  PairOptions options_;
  std::vector<uint32_t> pairs_;   // documents
  DrawOrder order_;               // of pairs_
};

}  // namespace retort::train
