#include "kernels/matmul.h"

#include <algorithm>
#include <optional>

#include "kernels/elementwise.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

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
// Weights of one claim: enough that the blocks asked for ahead are the same thread's, and few enough that all threads end together. 24 KB are
// about 1.5 us of memory traffic. (24 KB for everybody cost two threads a sixth of their speed.)
constexpr int64_t kLeastChunkBytes = 24 << 10, kMostChunkBytes = 128 << 10, kClaims = 4;
constexpr int64_t kPrefillPairs = 1;

template <class T>
void grow(std::vector<T>& v, int64_t n) {
  if (int64_t(v.size()) < n) v.resize(size_t(n));
}

// Tokens that are taken together.
struct TokenChunk {
  TokenRange tokens;
  size_t stretch;
};

// How one job is cut: pairs of row blocks x chunks of tokens.
struct Cut {
  std::span<const TokenRange> stretches;  // Activations'
  int64_t pairs, pairs_per_chunk, row_chunks, chunks;

  Cut(const MatmulJob& job, const Activations& x, bool prompts, int64_t chunk_bytes)
      : stretches(x.stretches(prompts)), pairs(ceil_div(job.w->blocks(), 2)),
        pairs_per_chunk(x.tokens() > kFewTokens ? kPrefillPairs : std::max<int64_t>(1, chunk_bytes / (2 * job.w->block_bytes()))),
        row_chunks(ceil_div(pairs, pairs_per_chunk)), chunks(0) {
    for (size_t i = 0; i < stretches.size(); ++i) chunks += row_chunks * parts(i);
  }
  int64_t most(size_t i) const { return Activations::is_prompt(i) ? kMostPromptTokens : kTokenChunk; }
  int64_t parts(size_t i) const { return ceil_div(stretches[i].end - stretches[i].begin, most(i)); }
  TokenChunk tokens(int64_t chunk) const {
    int64_t part = chunk / row_chunks;
    size_t i = 0;
    for (; part >= parts(i); ++i) part -= parts(i);
    const TokenRange& s = stretches[i];
    return {{s.begin + part * most(i), std::min(s.end, s.begin + (part + 1) * most(i))}, i};
  }
};

bool has_prompts(const MatmulTiles& tiles, const MatmulJob& job) { return tiles.prompt[int(job.w->kind())][0] != nullptr; }

Activations::Form form_of(const MatmulJob& job) {
  if (job.w->quantised()) return Activations::Form::kS8;
  return job.bf16_activations && job.w->kind() == TileKind::kBf16 ? Activations::Form::kBf16 : Activations::Form::kF32;
}

void store_rows(const MatmulJob& job, const float* tile, int64_t token, int tokens, int64_t row, int64_t outputs) {
  const int n = int(std::min<int64_t>(16, outputs - row));
  for (int t = 0; t < tokens; ++t) {
    float* y = job.y + (token + t) * job.y_stride + row;
    const float* v = tile + 16 * t;
    if (n == 16 && !job.bias) {  // nearly always
      for (int i = 0; i < 16; ++i) y[i] = job.epilogue == Epilogue::kAdd ? y[i] + v[i] : v[i];
      continue;
    }
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

  // The first tile of a pair asks for the weights of the next.
  void run_tile(TileKind kind, int64_t pair, int64_t token, int size, int tokens, bool first) const {
    alignas(64) float out[2 * kMostTileTokens * 16];
    TileArgs args = describe(pair, tokens, out);
    if (!first) args.ahead = 0;
    x.describe(args, form_of(job), token);
    const int blocks = block_count(pair);
    tiles.fn[int(kind)][blocks - 1][size](args);
    finish(args, pair, token, tokens);
  }

  void run_prompt(int64_t pair, const TokenChunk& chunk) const {
    ScratchFrame frame;
    const int64_t first = chunk.tokens.begin;
    const int tokens = int(chunk.tokens.end - first);
    const int64_t padded = round_up(tokens, kPromptTileTokens);
    TileArgs args = describe(pair, padded, frame.alloc<float>(2 * padded * 16));
    x.describe_prompt(args, chunk.stretch, first);
    tiles.prompt[int(job.w->kind())][block_count(pair) - 1](args);
    finish(args, pair, first, tokens);
  }

  int block_count(int64_t pair) const { return int(std::min<int64_t>(2, job.w->blocks() - 2 * pair)); }
  TileArgs describe(int64_t pair, int64_t tokens, float* out) const {
    TileArgs args;
    job.w->describe(args, 2 * pair, block_count(pair));
    args.tokens = tokens;
    args.out = out;
    return args;
  }

  // The first `tokens` of a tile's go where the job wants them.
  void finish(const TileArgs& args, int64_t pair, int64_t token, int tokens) const {
    const int64_t outputs = job.outputs ? job.outputs : job.epilogue == Epilogue::kSiluPairs ? job.w->rows() / 2 : job.w->rows();
    const float* second = args.out + 16 * args.tokens;
    if (job.epilogue == Epilogue::kSiluPairs) {
      const int n = int(std::min<int64_t>(16, outputs - 16 * pair));
      for (int t = 0; t < tokens; ++t)
        elementwise.silu_mul(args.out + 16 * t, second + 16 * t, n, job.y + (token + t) * job.y_stride + 16 * pair);
      return;
    }
    store_rows(job, args.out, token, tokens, 32 * pair, outputs);
    if (block_count(pair) == 2) store_rows(job, second, token, tokens, 32 * pair + 16, outputs);
  }

  void run_chunk(const Cut& cut, int64_t chunk) const {
    const int64_t first = chunk % cut.row_chunks * cut.pairs_per_chunk, last = std::min(cut.pairs, first + cut.pairs_per_chunk);
    const TokenChunk tokens = cut.tokens(chunk);
    if (Activations::is_prompt(tokens.stretch)) {
      for (int64_t pair = first; pair < last; ++pair) run_prompt(pair, tokens);
    } else {
      run_rows(first, last, tokens.tokens);
    }
  }

  void run_rows(int64_t first, int64_t last, TokenRange range) const {
    const TileKind kind = form_of(job) == Activations::Form::kBf16 ? TileKind::kBf16Dot : job.w->kind();
    const int64_t begin = range.begin, end = range.end;
    const bool unit = tiles.enter && end - begin >= kTileTokens[kTileSizes - 1] && tiles.fn[int(kind)][0][kTileSizes - 1];
    if (unit) tiles.enter();
    for (int64_t pair = first; pair < last; ++pair) {
      for (int64_t t = begin; t < end;) {
        int size = kTileSizes - 1;
        while (kTileTokens[size] > end - t || !tiles.fn[int(kind)][0][size]) --size;
        const int tokens = size < kTileSizes - 1 ? kTileTokens[size] : int(end - t) / kTileTokens[size] * kTileTokens[size];
        run_tile(kind, pair, t, size, tokens, t == begin);
        t += tokens;
      }
    }
    if (unit) tiles.leave();
  }
};

}  // namespace

void Activations::set(const float* x, int64_t tokens, int64_t columns, ptrdiff_t stride, std::span<const TokenRange> prompts) {
  x_ = x;
  tokens_ = tokens;
  all_ = {0, tokens};
  columns_ = columns;
  stride_ = stride;
  groups_ = (columns + 31) / 32;
  even_ = columns + columns % 2;
  for (auto& form : ready_) form[0] = form[1] = false;
  stretches_.clear();
  int64_t begin = 0;
  for (const TokenRange& prompt : prompts) {
    stretches_.push_back({begin, prompt.begin});
    stretches_.push_back(prompt);
    begin = prompt.end;
  }
  if (begin < tokens || stretches_.empty()) stretches_.push_back({begin, tokens});
}

// Each prompt begins a tile; one is left before it for the rounding of those before.
int64_t Activations::tile_row(size_t stretch, int64_t t) const {
  constexpr int64_t kTile = kPromptTileTokens;
  const int64_t begin = stretches_[stretch].begin, first_tile = ceil_div(begin, kTile) + int64_t(stretch) / 2;
  const int64_t tile = first_tile + (t - begin) / kTile;
  return (tile * groups_ * kTile + (t - begin) % kTile) * 32;
}

void Activations::prepare_row(Form form, const MatmulTiles& tiles, size_t stretch, int64_t t) {
  const float* x = x_ + t * stride_;
  switch (form) {
    case Form::kS8:
      tiles.quantise(x, columns_, tokens_, q_.data() + t * 32 * groups_, q_scale_.data() + t, q_min_.data() + t, q_sum8_.data() + 2 * t);
      break;
    case Form::kBf16:
      tiles.to_bf16(x, columns_, bf16_.data() + t * even_);
      if (even_ != columns_) bf16_[t * even_ + columns_] = 0;
      break;
    case Form::kBf16Tiles: {
      uint16_t* row = bf16_tiles_.data() + tile_row(stretch, t);
      for (int64_t g = 0; g < groups_; ++g, row += kPromptTileTokens * 32) {
        const int64_t n = std::min<int64_t>(32, columns_ - 32 * g);
        tiles.to_bf16(x + 32 * g, n, row);
        std::fill(row + n, row + 32, uint16_t(0));
      }
      break;
    }
    case Form::kF32:
      std::copy(x, x + columns_, padded_.data() + t * even_);
      padded_[t * even_ + columns_] = 0;
      break;
  }
}

void Activations::prepare(ThreadPool& pool, Form form, bool prompts, Isa isa) {
  bool& ready = ready_[int(form)][prompts];
  if (ready) return;
  ready = true;
  if (form == Form::kF32 && even_ == columns_) return;  // read where it is
  if (form == Form::kF32) grow(padded_, tokens_ * even_);
  if (form == Form::kBf16) grow(bf16_, tokens_ * even_);
  if (form == Form::kBf16Tiles) grow(bf16_tiles_, (ceil_div(tokens_, kPromptTileTokens) + std::ssize(stretches_)) * kPromptTileTokens * 32 * groups_);
  if (form == Form::kS8) {
    grow(q_, tokens_ * 32 * groups_);
    grow(q_scale_, tokens_ * groups_);
    grow(q_min_, tokens_ * groups_);
    grow(q_sum8_, tokens_ * 2 * groups_);
  }
  const MatmulTiles& tiles = tiles_for(isa);
  for (size_t i = prompts; i < stretches_.size(); i += 2) {
    const int64_t first = stretches_[i].begin;
    pool.parallel_for(stretches_[i].end - first, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = first + begin; t < first + end; ++t) prepare_row(form, tiles, i, t);
    });
  }
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
    case Form::kBf16Tiles: break;  // describe_prompt()
    case Form::kF32:
      args.x = even_ == columns_ ? x_ + t * stride_ : padded_.data() + t * even_;
      args.x_stride = even_ == columns_ ? stride_ : even_;
      break;
  }
}

void Activations::describe_prompt(TileArgs& args, size_t stretch, int64_t t) const {
  args.x_bf16 = bf16_tiles_.data() + tile_row(stretch, t);
}

void matmul(ThreadPool& pool, Activations& x, std::span<const MatmulJob> jobs, Isa isa) {
  constexpr size_t kMostJobs = 16;
  for (; jobs.size() > kMostJobs; jobs = jobs.subspan(kMostJobs)) matmul(pool, x, jobs.first(kMostJobs), isa);
  const MatmulTiles& tiles = tiles_for(isa);
  int64_t bytes = 0;
  for (const MatmulJob& job : jobs) bytes += job.w->bytes();
  const int64_t chunk_bytes = std::clamp(bytes / (kClaims * pool.size()), kLeastChunkBytes, kMostChunkBytes);
  std::optional<Cut> cuts[kMostJobs];
  int64_t chunks = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    RETORT_CHECK(jobs[i].w->columns() == x.columns(), "weights have ", jobs[i].w->columns(), " columns, inputs ", x.columns());
    const bool prompts = has_prompts(tiles, jobs[i]);
    x.prepare(pool, form_of(jobs[i]), false, isa);
    x.prepare(pool, prompts ? Activations::Form::kBf16Tiles : form_of(jobs[i]), true, isa);
    chunks += cuts[i].emplace(jobs[i], x, prompts, chunk_bytes).chunks;
  }
  pool.run_chunks(chunks, [&](int64_t chunk) {
    size_t i = 0;
    for (; chunk >= cuts[i]->chunks; ++i) chunk -= cuts[i]->chunks;
    Worker{tiles, elementwise(isa), x, jobs[i]}.run_chunk(*cuts[i], chunk);
  });
}

}  // namespace retort
