#include "train/matrix_losses.h"

#include <algorithm>

namespace retort::train {
namespace {

constexpr double kUnderRoot = 1e-12, kLeastShare = 1e-12;

at::Tensor sum_of(const at::Tensor& a, const at::Tensor& b) { return a.defined() ? a + b : b; }

}  // namespace

void add_matrix_losses(MixingMatrices& own, MixingMatrices& teacher, const Rows& rows, int batch_rows, std::span<MatrixLoss> losses) {
  const int count = own.together();
  const int64_t length = rows.total / batch_rows;
  const double matrices = double(batch_rows) * teacher.heads();
  const auto wants = [&](LossKind kind) { return std::any_of(losses.begin(), losses.end(), [&](const MatrixLoss& l) { return l.kind == kind; }); };
  for (int head = 0; head < own.heads(); head += count) {
    for (size_t next = 0; next < rows.sequences.size();) {
      const int64_t row = rows.sequences[next].begin / length;
      at::Tensor squares, cross;  // [count]: sums over the row's matrices
      for (; next < rows.sequences.size() && rows.sequences[next].begin / length == row; ++next) {
        at::Tensor wanted;
        {
          const at::NoGradGuard no_grad;
          wanted = teacher.of(own.layer_head(head), count, rows.sequences[next]);
        }
        const at::Tensor m = own.of(head, count, rows.sequences[next]);
        if (wants(LossKind::kMatrix)) squares = sum_of(squares, (m - wanted).square().sum({0, 2}));
        if (wants(LossKind::kAttnXent)) cross = sum_of(cross, -(wanted * m.clamp_min(kLeastShare).log()).sum({0, 2}));
      }
      at::Tensor total;
      for (MatrixLoss& loss : losses) {
        at::Tensor value;
        if (loss.kind == LossKind::kAttnXent) value = cross.sum() / (matrices * double(length));
        else if (loss.form == LossForm::kMse) value = squares.sum() / (matrices * double(length * length));
        else value = (squares + kUnderRoot).sqrt().sum() / matrices;
        loss.value += value.item<double>();
        total = sum_of(total, value * loss.factor);
      }
      own.backward(total);
    }
  }
}

}  // namespace retort::train
