#include "quantise/input_moments.h"

#include <algorithm>

#include "quantise/products.h"

namespace retort {
namespace {

InputMoments empty_moments(int columns) {
  InputMoments moments;
  for (int first = 0; first < columns; first += MomentBlock::kWidest) {
    MomentBlock block{first, std::min(MomentBlock::kWidest, columns - first), {}};
    block.sum.resize(size_t(block.count) * size_t(block.count));
    moments.blocks.push_back(std::move(block));
  }
  return moments;
}

// sum += X^T X of columns [from, from + columns) of x. Inputs are rounded to bf16: two thousandths of each, where damping adds a hundredth
// of the mean.
void add_rows(const RuntimeOps::Tensor& x, int from, int64_t rows, ThreadPool& pool, InputMoments& moments) {
  for (MomentBlock& block : moments.blocks) {
    const int64_t n = block.count;
    std::vector<float> turned(size_t(n * rows));  // a column's values side by side
    pool.parallel_for(n, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x.row(r) + from + block.first;
        for (int64_t i = begin; i < end; ++i) turned[size_t(i * rows + r)] = row[i];
      }
    });
    const MatrixView inputs{turned.data(), n, rows, rows};
    add_product(inputs, inputs, block.sum.data(), n, pool, ProductPrecision::kBf16);
  }
  moments.rows += rows;
}

// "model.layers.0.mlp.up_proj.weight" for gate_proj's, which the runtime holds as one matrix.
std::string other_half(std::string name) {
  const std::string gate = "mlp.gate_proj.";
  const size_t at = name.find(gate);
  return at == std::string::npos ? "" : name.replace(at, gate.size(), "mlp.up_proj.");
}

}  // namespace

void MomentCollector::see(std::span<const WeightRef> weights, const RuntimeOps::Tensor& x, int64_t rows) {
  // Matrices of one call share their input; those that stay f32 are of no interest.
  std::vector<const ModelWeight*> matrices;
  for (const WeightRef& weight : weights) {
    if (weight->values.empty()) matrices.push_back(&*weight.operator->());
  }
  if (matrices.empty()) return;
  const ModelWeight& first = *matrices.front();
  const int columns = int(first.shape.back());
  TensorMoments& moments = found_[first.name];
  if (moments.empty()) {
    for (size_t h = 0; h < first.matrices.size(); ++h) moments.push_back(std::make_shared<InputMoments>(empty_moments(columns)));
  }
  for (const ModelWeight* other : matrices) {
    found_[other->name] = moments;
    if (const std::string up = other_half(other->name); !up.empty()) found_[up] = moments;
  }
  for (int h = 0; h < x.columns / columns; ++h) {  // one matrix may serve all heads
    add_rows(x, h * columns, rows, pool_, *moments[moments.size() == 1 ? 0 : size_t(h)]);
  }
}

}  // namespace retort
