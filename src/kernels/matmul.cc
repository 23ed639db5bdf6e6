#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace retort {
namespace {

const MatmulTiles& tiles_for(Isa isa) {
  switch (isa) {
    case Isa::kAmx: return matmul_tiles_amx();
    case Isa::kAvx512: return matmul_tiles_avx512();
    case Isa::kAvx2: return matmul_tiles_avx2();
    case Isa::kNeon: return matmul_tiles_neon();
    case Isa::kNeonDot: return matmul_tiles_neon_dot();
    case Isa::kScalar: break;
  }
  return matmul_tiles_scalar();
}

constexpr int64_t kFewTokens = 16;                    // up to these a product's time is its weights'; with more it is cut for prompts
constexpr int64_t kTokenChunk = kMostTileTokens;      // a chunk's activations stay in the second-level cache
constexpr int64_t kChunkBytes = 24 << 10;             // of weights: about 1.5 us of memory traffic per claim
constexpr int64_t kPrefillPairs = 1;

template <class T>
void grow(std::vector<T>& v, int64_t n) {
  if (int64_t(v.size()) < n) v.resize(size_t(n));
}

// How one job is cut: pairs of row blocks x chunks of tokens.
struct Cut {
  int64_t pairs, pairs_per_chunk, row_chunks, chunks;
};

Cut cut_job(const MatmulJob& job, int64_t tokens) {
  const int64_t pairs = (job.w->blocks() + 1) / 2;
  const int64_t per =
      tokens > kFewTokens ? kPrefillPairs : std::max<int64_t>(1, kChunkBytes / (2 * job.w->block_bytes()));
  const int64_t row_chunks = (pairs + per - 1) / per;
  return {pairs, per, row_chunks, row_chunks * ((tokens + kTokenChunk - 1) / kTokenChunk)};
}

Activations::Form form_of(const MatmulJob& job) {
  if (job.w->quantised()) return Activations::Form::kS8;
  return job.bf16_activations && job.w->kind() == TileKind::kBf16 ? Activations::Form::kBf16 : Activations::Form::kF32;
}

void store_rows(const MatmulJob& job, const float* tile, int64_t token, int tokens, int64_t row, int64_t outputs) {
  const int n = int(std::min<int64_t>(16, outputs - row));
  for (int t = 0; t < tokens; ++t) {
    float* y = job.y + (token + t) * job.y_stride + row;
    const float* v = tile + 16 * t;
    for (int i = 0; i < n; ++i) {
      const float value = job.bias ? v[i] + job.bias[row + i] : v[i];
      y[i] = job.epilogue == Epilogue::kAdd ? y[i] + value : value;
    }
  }
}

struct Worker {
  const MatmulTiles& tiles;
  const ElementwiseKernels& elementwise;
  const Activations& x;
  const MatmulJob& job;

  void run_tile(TileKind kind, int64_t pair, int64_t token, int size, int tokens) const {
    const PackedMatrix& w = *job.w;
    const int blocks = int(std::min<int64_t>(2, w.blocks() - 2 * pair));
    alignas(64) float out[2 * kMostTileTokens * 16];
    TileArgs args;
    w.describe(args, 2 * pair, blocks);
    x.describe(args, form_of(job), token);
    args.tokens = tokens;
    args.out = out;
    tiles.fn[int(kind)][blocks - 1][size](args);
    if (job.epilogue == Epilogue::kSiluPairs) {
      const int64_t outputs = job.outputs ? job.outputs : w.rows() / 2;
      const int n = int(std::min<int64_t>(16, outputs - 16 * pair));
      for (int t = 0; t < tokens; ++t)
        elementwise.silu_mul(out + 16 * t, out + 16 * (tokens + t), n, job.y + (token + t) * job.y_stride + 16 * pair);
      return;
    }
    const int64_t outputs = job.outputs ? job.outputs : w.rows();
    for (int b = 0; b < blocks; ++b)
      store_rows(job, out + 16 * tokens * b, token, tokens, 16 * (2 * pair + b), outputs);
  }

  void run_chunk(const Cut& cut, int64_t chunk) const {
    const TileKind kind = form_of(job) == Activations::Form::kBf16 ? TileKind::kBf16Dot : job.w->kind();
    const int64_t first = chunk % cut.row_chunks * cut.pairs_per_chunk;
    const int64_t begin = chunk / cut.row_chunks * kTokenChunk, end = std::min(x.tokens(), begin + kTokenChunk);
    const bool unit = tiles.enter && end - begin >= kTileTokens[kTileSizes - 1] && tiles.fn[int(kind)][0][kTileSizes - 1];
    if (unit) tiles.enter();
    for (int64_t pair = first; pair < std::min(cut.pairs, first + cut.pairs_per_chunk); ++pair) {
      for (int64_t t = begin; t < end;) {
        int size = kTileSizes - 1;
        while (kTileTokens[size] > end - t || !tiles.fn[int(kind)][0][size]) --size;
        const int tokens = size < kTileSizes - 1 ? kTileTokens[size] : int(end - t) / kTileTokens[size] * kTileTokens[size];
        run_tile(kind, pair, t, size, tokens);
        t += tokens;
      }
    }
    if (unit) tiles.leave();
  }
};

}  // namespace

void Activations::set(const float* x, int64_t tokens, int64_t columns, ptrdiff_t stride) {
  x_ = x;
  tokens_ = tokens;
  columns_ = columns;
  stride_ = stride;
  groups_ = (columns + 31) / 32;
  even_ = columns + columns % 2;
  for (bool& ready : ready_) ready = false;
}

void Activations::prepare_row(Form form, const MatmulTiles& tiles, int64_t t) {
  const float* x = x_ + t * stride_;
  switch (form) {
    case Form::kS8:
      tiles.quantise(x, columns_, tokens_, q_.data() + t * 32 * groups_, q_scale_.data() + t, q_min_.data() + t, q_sum8_.data() + 2 * t);
      break;
    case Form::kBf16:
      tiles.to_bf16(x, columns_, bf16_.data() + t * even_);
      if (even_ != columns_) bf16_[t * even_ + columns_] = 0;
      break;
    case Form::kF32:
      std::copy(x, x + columns_, padded_.data() + t * even_);
      padded_[t * even_ + columns_] = 0;
      break;
  }
}

void Activations::prepare(ThreadPool& pool, Form form, Isa isa) {
  if (ready_[int(form)]) return;
  ready_[int(form)] = true;
  if (form == Form::kF32 && even_ == columns_) return;  // read where it is
  if (form == Form::kF32) grow(padded_, tokens_ * even_);
  if (form == Form::kBf16) grow(bf16_, tokens_ * even_);
  if (form == Form::kS8) {
    grow(q_, tokens_ * 32 * groups_);
    grow(q_scale_, tokens_ * groups_);
    grow(q_min_, tokens_ * groups_);
    grow(q_sum8_, tokens_ * 2 * groups_);
  }
  const MatmulTiles& tiles = tiles_for(isa);
  pool.parallel_for(tokens_, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) prepare_row(form, tiles, t);
  });
}

void Activations::describe(TileArgs& args, Form form, int64_t t) const {
  switch (form) {
    case Form::kS8:
      args.q = q_.data() + t * 32 * groups_;
      args.q_scale = q_scale_.data() + t;
      args.q_min = q_min_.data() + t;
      args.q_sum8 = q_sum8_.data() + 2 * t;
      args.q_stride = 32 * groups_;
      args.group_stride = tokens_;
      break;
    case Form::kBf16:
      args.x_bf16 = bf16_.data() + t * even_;
      args.x_stride = even_;
      break;
    case Form::kF32:
      args.x = even_ == columns_ ? x_ + t * stride_ : padded_.data() + t * even_;
      args.x_stride = even_ == columns_ ? stride_ : even_;
      break;
  }
}

void matmul(ThreadPool& pool, Activations& x, std::span<const MatmulJob> jobs, Isa isa) {
  constexpr size_t kMostJobs = 16;
  for (; jobs.size() > kMostJobs; jobs = jobs.subspan(kMostJobs)) matmul(pool, x, jobs.first(kMostJobs), isa);
  const MatmulTiles& tiles = tiles_for(isa);
  Cut cuts[kMostJobs];
  int64_t chunks = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    RETORT_CHECK(jobs[i].w->columns() == x.columns(), "weights have ", jobs[i].w->columns(), " columns, inputs ", x.columns());
    x.prepare(pool, form_of(jobs[i]), isa);
    cuts[i] = cut_job(jobs[i], x.tokens());
    chunks += cuts[i].chunks;
  }
  pool.run_chunks(chunks, [&](int64_t chunk) {
    size_t i = 0;
    for (; chunk >= cuts[i].chunks; ++i) chunk -= cuts[i].chunks;
    Worker{tiles, elementwise(isa), x, jobs[i]}.run_chunk(cuts[i], chunk);
  });
}

}  // namespace retort
