// One position's losses over the vocabulary, in as few passes over its logits as there can be.
//
// Layer: train, torch-free. Single-threaded; thread-safe. bf16 values are their upper 16 bits.
#pragma once

#include <cstdint>
#include <vector>

namespace retort::train::rows {

class LogitRow {
 public:
  explicit LogitRow(int64_t columns) : columns_(columns), gradient_(size_t(columns)), student_(size_t(columns)), teacher_(size_t(columns)) {}

  // The student's logits [columns]; the gradient by them is 0.
  void begin(const uint16_t* logits);

  struct Soft {
    double cross = 0, entropy = 0;   // of the student's distribution against the teacher's; of the teacher's
  };
  // Against the teacher's logits [columns], both divided by the temperature: q and p. The gradient grows by weight (q - p), `cross`'s by
  // the divided logits times the weight.
  Soft add_soft(const uint16_t* teacher, float temperature, float weight);
  // -log q of a token, its gradient times the weight.
  double add_hard(int64_t token, float weight);

  // The gradient [columns] as bf16.
  void end(uint16_t* gradient) const;

 private:
  int64_t columns_;
  const uint16_t* logits_ = nullptr;
  bool empty_ = true;                         // nothing in gradient_
  std::vector<float> gradient_, student_, teacher_;   // the last two: exp(logit - largest)
};

}  // namespace retort::train::rows
