// Weights, states and buffers of a few equations as the runtime holds them, for tests: results come back as the reference's tensors.
#pragma once

#include "conformance/harness.h"
#include "runtime/runtime_ops.h"

namespace retort::conformance {

class Served {
 public:
  Served(const std::vector<TensorSpec>& table, const std::vector<ReferenceOps::Weight>& weights, PartShape shape,
         std::shared_ptr<const StateLayout> layout, WeightFormat format)
      : shape_(std::move(shape)), layout_(std::move(layout)), frequencies_(shape_.rope.frequencies(shape_.head_dim)) {
    held_.reserve(table.size());
    for (size_t i = 0; i < table.size(); ++i) {
      if (!table[i].present()) {
        refs_.emplace_back();
        continue;
      }
      const std::vector<float> values(weights[i].values.begin(), weights[i].values.end());
      const TensorView view{table[i].name, TensorType::kF32, table[i].shape, reinterpret_cast<const std::byte*>(values.data())};
      auto loaded = load_weight(view, table[i].floor, format, pool_);
      RETORT_CHECK(loaded.ok(), loaded.error().message);
      held_.push_back(std::move(*loaded));
      refs_.emplace_back(&held_.back());
    }
  }

  Sequence sequence() const { return Sequence(layout_); }

  // equation(ops, x, weights) over rows of several sequences at once; the sequences move on.
  template <class Equation>
  ReferenceOps::Tensor run(std::vector<RowSegment> segments, const ReferenceOps::Tensor& x, Equation&& equation) {
    arena_.release({});
    std::fill_n(arena_.floats(1 << 18), 1 << 18, std::numeric_limits<float>::quiet_NaN());
    arena_.release({});
    RuntimeOps ops(pool_, arena_, scratch_, segments, x.rows);
    const auto input = ops.allocate(int(x.columns));
    for (int64_t r = 0; r < x.rows; ++r) std::copy(x.row(r), x.row(r) + x.columns, input.row(r));
    ops.set_rope(frequencies_);
    ops.begin_layer(input, {});
    ops.begin_part(shape_, layout_->first_slot(0, 0));
    const auto y = equation(ops, input, refs_.data());
    for (const RowSegment& s : segments) s.sequence->set_position(s.sequence->position() + s.count);
    ReferenceOps::Tensor out(x.rows, y.columns);
    for (int64_t r = 0; r < x.rows; ++r) std::copy(y.row(r), y.row(r) + y.columns, out.row(r));
    return out;
  }

 private:
  PartShape shape_;
  ThreadPool pool_{2};
  std::shared_ptr<const StateLayout> layout_;
  std::vector<ModelWeight> held_;
  std::vector<WeightRef> refs_;
  std::vector<double> frequencies_;
  Arena arena_;
  OpsScratch scratch_;
};

}  // namespace retort::conformance
