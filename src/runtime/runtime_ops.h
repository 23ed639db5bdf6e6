// The backend that serves: runs the mixers' equations on fp32 rows, with packed weights and per-sequence state.
//
// Layer: runtime. Not thread-safe; one forward pass at a time (kernels use the pool inside). See mixers/mixer.h for what
// each operation means.
//
// Rows are ragged: segment i is rows [first, first + count) of one sequence. Row-wise operations run over all rows at once,
// stateful ones segment by segment, and no row's result depends on another segment. States are taken in call order.
#pragma once

#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/threads.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "mixers/list.h"
#include "runtime/arena.h"
#include "runtime/sequence.h"
#include "runtime/trial.h"
#include "runtime/weight.h"

namespace retort {

// Rows of one sequence in a forward pass.
struct RowSegment {
  Sequence* sequence = nullptr;
  int64_t first = 0, count = 0;
  Trial* trial = nullptr;  // not null: the rows take the form of decoding steps, and may be taken back
};

// A segment's rows [token, token + count), which attend together.
struct Stretch {
  const RowSegment* segment;
  int64_t token, count;
};

// Buffers of the kernels that outlive a pass, so that decoding allocates nothing.
struct OpsScratch {
  std::vector<TokenRange> prompts;  // the pass's rows that are
  Activations activations;
  std::vector<Activations> head_activations;
  AttentionScratch attention;
  std::vector<Stretch> stretches;
  std::vector<AttentionArgs> tasks;
  std::vector<CacheSpan> spans;
  std::unordered_map<const float*, std::vector<float>> scan_rates;  // of every decay_rate seen, [G*K, V]
};

class RuntimeOps {
 public:
  // A view of [rows, columns] numbers, `stride` apart from row to row.
  struct Tensor {
    float* data = nullptr;
    int columns = 0;
    int64_t stride = 0;
    explicit operator bool() const { return data != nullptr; }
    float* row(int64_t r) const { return data + r * stride; }
  };
  using Weight = WeightRef;
  struct Pair {
    Tensor values, maximum;
  };

  RuntimeOps(ThreadPool& pool, Arena& arena, OpsScratch& scratch, std::span<const RowSegment> segments, int64_t rows);
  // Products with bf16 weights round their inputs to bf16 too; what is summed stays fp32.
  void use_bf16_activations(bool on) { bf16_activations_ = on; }

  // The layer's input, and the weights of all its parts that are applied to it and therefore run as one parallel section.
  void begin_layer(Tensor input, std::span<const Weight> fused);
  // Which part's equations run next: its window, and where its states start.
  void begin_part(const PartShape& shape, int first_slot);
  // Once per pass, before anything rotates. [head_dim / 2]
  void set_rope(std::span<const double> frequencies);
  // Called before a product with what the weights are applied to; nothing when null. It must outlive the pass.
  using InputWatcher = std::function<void(std::span<const Weight> weights, const Tensor& x, int64_t rows)>;
  void watch_inputs(const InputWatcher* watcher) { watcher_ = watcher && *watcher ? watcher : nullptr; }

  // In a pass without rows: collects the weights that are applied to the layer's input.
  void trace_input_weights(std::vector<Weight>* sink) { trace_ = sink; }

  Tensor linear(Tensor x, Weight w, Weight bias = {});
  Tensor head_linear(Tensor x, Weight w, Weight bias, int heads);
  Tensor short_conv(Tensor x, Weight w, Weight bias);
  Tensor leaving(Tensor x) { return shape_->window.size == 0 ? x : earlier(x, shape_->window.size); }
  Tensor previous(Tensor x) { return earlier(x, 1); }
  Tensor rope(Tensor x, int heads);
  Tensor rms_norm_heads(Tensor x, Weight w, int heads, double eps);
  Tensor softmax_heads(Tensor x, int heads);
  Pair exp_heads(Tensor x, int heads);
  Tensor center_heads(Tensor x, int heads);
  Tensor mirror_heads(Tensor x, int heads);
  Tensor square_heads(Tensor x, int heads);
  Tensor repeat_heads(Tensor x, int heads, int times);
  Tensor dot_heads(Tensor a, Tensor b, int heads);
  Tensor sigmoid(Tensor x);
  Tensor log_sigmoid(Tensor x);
  Tensor silu(Tensor x);
  Tensor neg(Tensor x) { return scale(x, -1.0); }
  Tensor tanh(Tensor x);
  Tensor exp(Tensor x);
  Tensor one_minus_exp(Tensor x);
  Tensor add(Tensor a, Tensor b);
  Tensor mul(Tensor a, Tensor b);
  Tensor add_row(Tensor x, Weight v);
  Tensor mul_row(Tensor x, Weight v);
  Tensor mul_exp_row(Tensor x, Weight v);
  Tensor same_row(Tensor x, const std::vector<double>& values);
  Tensor scale(Tensor x, double c);
  Tensor mul_heads(Tensor x, Tensor g, int heads);
  Tensor columns(Tensor x, int first, int count) { return {x.data + first, count, x.stride}; }
  Normalised<Tensor> attention(Tensor q, Tensor k, Tensor v, int heads, int kv_heads, WindowConfig window);
  Normalised<Tensor> recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<RuntimeOps>& in);
  Tensor join(Normalised<Tensor> a, Normalised<Tensor> b, int heads);

  // What a layer needs around its parts.
  Tensor allocate(int columns);
  // outputs[i] = x weights[i]^T, all in one parallel section.
  void linear_group(Tensor x, std::span<const Weight> weights, Tensor* outputs);
  // silu(x G^T) o (x U^T), w from load_gate_up().
  Tensor linear_gated(Tensor x, Weight w);
  // sum += x w^T
  void linear_add(Tensor x, Weight w, Tensor sum);
  static constexpr size_t kMostFused = 64;
  int64_t rows() const { return rows_; }
  ThreadPool& pool() { return pool_; }

 private:
  // fn(row) over all rows, in parallel when they hold enough work.
  template <class Fn>
  void each_row(int64_t columns, Fn&& fn) {
    if (rows_ == 1 || rows_ * columns < kParallelNumbers) {
      for (int64_t r = 0; r < rows_; ++r) fn(r);
      return;
    }
    pool_.parallel_for(rows_, 4, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) fn(r);
    });
  }
  template <class Fn>
  Tensor map_rows(Tensor x, Fn&& fn) { return map_rows(x, x.columns, fn); }  // fn(in, out, row)
  template <class Fn>
  Tensor map_rows(Tensor x, int columns, Fn&& fn) {
    const Tensor out = allocate(columns);
    each_row(columns, [&](int64_t r) { fn(x.row(r), out.row(r), r); });
    return out;
  }
  template <class Fn>
  Tensor map_heads(Tensor x, int heads, int columns, Fn&& fn) {  // fn(a head's columns in, its new columns, how many in)
    const int d = x.columns / heads;
    return map_rows(x, heads * columns, [&](const float* in, float* out, int64_t) {
      for (int h = 0; h < heads; ++h) fn(in + h * d, out + h * columns, d);
    });
  }
  // The row `back` tokens before in the same sequence, zeros where there is none.
  Tensor earlier(Tensor x, int64_t back);
  // x by each of the weights, one job for each, in one parallel section.
  void multiply(Tensor x, std::span<const Weight> weights, const MatmulJob* jobs);
  void attend(Tensor q, Tensor k, Tensor v, Normalised<Tensor> y, int kv_heads, WindowConfig window);
  void remember_window(Tensor k, Tensor v, int kv_heads, WindowConfig window);
  void remember(const RowSegment& s, int64_t slots, Tensor x);
  void write_row(const RowSegment& s, float* row, const float* values, int64_t columns, int64_t token);
  const float* scan_rates(const RecurrenceSpec& spec, Weight decay_rate);
  void report_inputs(std::span<const Weight> weights, const Tensor& x) {
    if (watcher_ && rows_ > 0) (*watcher_)(weights, x, rows_);
  }
  void add_skip(Tensor y, Tensor v, Weight skip, const RecurrenceSpec& spec);
  // Rows side by side, as the recurrence kernels read them.
  Tensor dense(Tensor x);
  const StateLayout::Slot& next_slot(const Sequence& sequence) const { return sequence.layout().slots()[slot_]; }
  // A sequence's own number of rows decides, so that its neighbours do not. From here on products of rounded weights pay off.
  static constexpr int64_t kPromptRows = 32;
  static constexpr int64_t kParallelNumbers = 1 << 15;  // elementwise work below this is quicker on one thread

  ThreadPool& pool_;
  Arena& arena_;
  OpsScratch& scratch_;
  bool bf16_activations_ = false;
  const ElementwiseKernels& kernels_;
  std::span<const RowSegment> segments_;
  int64_t rows_;
  int slot_ = 0;
  const PartShape* shape_ = nullptr;
  Tensor angles_;  // [rows, head_dim]: cosines, then sines
  Tensor input_;
  std::span<const Weight> fused_;
  Tensor fused_outputs_[kMostFused];
  size_t fused_count_ = 0;
  std::vector<Weight>* trace_ = nullptr;
  const InputWatcher* watcher_ = nullptr;
};

}  // namespace retort
