#include "runtime/weight.h"

namespace retort {
namespace {

BlockFormat block_format(TensorType type) { return BlockFormat(uint32_t(type)); }

// The format a tensor is packed in. TensorRows that are no whole blocks of 32 keep 16 bits.
BlockFormat stored_format(const TensorView& view, WeightFormat format) {
  switch (format) {
    case WeightFormat::kAuto: return block_format(view.type);
    case WeightFormat::kF32: return BlockFormat::kF32;
    case WeightFormat::kBF16: return BlockFormat::kBF16;
    case WeightFormat::kQ8_0: return BlockFormat::kQ8_0;
    case WeightFormat::kQ4_0: return BlockFormat::kQ4_0;
    case WeightFormat::kQ4_1: return BlockFormat::kQ4_1;
  }
  return BlockFormat::kF32;
}

// TensorRows [first, first + rows) of a tensor that is rows of `columns` values.
struct TensorRows {
  const TensorView& view;
  int64_t columns;
  int64_t first, count;

  const std::byte* data() const { return view.data + row_bytes(view.type, first * columns); }
  std::vector<float> floats() const {
    std::vector<float> out(size_t(count * columns));
    dequantise_row(view.type, data(), out.data(), count * columns);
    return out;
  }
};

Result<PackedMatrix> pack_rows(const TensorRows& rows, BlockFormat format, ThreadPool& pool) {
  if (format == block_format(rows.view.type)) return PackedMatrix::pack(format, rows.count, rows.columns, rows.data(), &pool);
  auto packed = PackedMatrix::pack_f32(format, rows.count, rows.columns, rows.floats().data(), &pool);
  if (!packed.ok()) return invalid("tensor ", rows.view.name, ": ", packed.error().message);
  return packed;
}

}  // namespace

Result<WeightFormat> parse_weight_format(const std::string& name) {
  if (name == "auto") return WeightFormat::kAuto;
  if (name == "f32") return WeightFormat::kF32;
  if (name == "bf16") return WeightFormat::kBF16;
  if (name == "q8_0") return WeightFormat::kQ8_0;
  if (name == "q4_0") return WeightFormat::kQ4_0;
  if (name == "q4_1") return WeightFormat::kQ4_1;
  return invalid("--weights ", name, ": expected one of ", weight_format_names());
}

const char* weight_format_names() { return "auto, f32, bf16, q8_0, q4_0, q4_1"; }

int64_t ModelWeight::bytes() const {
  int64_t total = int64_t((values.size() + transposed.size()) * sizeof(float));
  for (const auto& matrix : matrices) total += matrix.bytes();
  return total;
}

Result<ModelWeight> load_weight(const TensorView& view, Precision floor, WeightFormat format, ThreadPool& pool) {
  ModelWeight weight;
  weight.name = view.name;
  weight.shape = view.shape;
  const bool fp32 = floor == Precision::kF32;
  if (fp32) {
    RETORT_TRY(weight.values, read_f32(view));
  }
  if (view.shape.size() < 2) return weight;
  const int64_t columns = view.shape.back();
  const int64_t heads = view.shape.size() == 3 ? view.shape[0] : 1;
  const int64_t rows = view.count() / columns / heads;
  constexpr int64_t kMostTaps = 64;
  if (fp32 && heads == 1 && columns <= kMostTaps) {
    weight.transposed.resize(weight.values.size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) weight.transposed[size_t(c * rows + r)] = weight.values[size_t(r * columns + c)];
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    const TensorRows part{view, columns, h * rows, rows};
    RETORT_TRY(auto matrix, pack_rows(part, fp32 ? BlockFormat::kF32 : stored_format(view, format), pool));
    weight.matrices.push_back(std::move(matrix));
  }
  return weight;
}

Result<ModelWeight> load_gate_up(const TensorView& gate, const TensorView& up, WeightFormat format, ThreadPool& pool) {
  ModelWeight weight;
  weight.name = gate.name;
  weight.shape = {2 * gate.shape[0], gate.shape[1]};
  const int64_t rows = gate.shape[0], columns = gate.shape[1];
  const BlockFormat stored = stored_format(gate, format);
  if (gate.type == up.type && stored == block_format(gate.type)) {
    const auto pointers = interleave_rows(gate.data, up.data, rows, row_bytes(gate.type, columns));
    RETORT_TRY(auto matrix, PackedMatrix::pack(stored, columns, pointers, &pool));
    weight.matrices.push_back(std::move(matrix));
    return weight;
  }
  const std::vector<float> g = TensorRows{gate, columns, 0, rows}.floats(), u = TensorRows{up, columns, 0, rows}.floats();
  // Two files' formats that differ (mixed K quantisations) meet in the larger one that floats can be rounded to.
  const bool mixed = gate.type != up.type && format == WeightFormat::kAuto;
  const auto pointers = interleave_rows(g.data(), u.data(), rows, columns);
  auto matrix = PackedMatrix::pack_f32(mixed ? BlockFormat::kQ8_0 : stored, columns, pointers, &pool);
  if (!matrix.ok()) return invalid("tensor ", gate.name, ": ", matrix.error().message);
  weight.matrices.push_back(std::move(*matrix));
  return weight;
}

}  // namespace retort
