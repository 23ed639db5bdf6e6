#include "io/export/layout.h"

#include <cmath>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "io/export/roundings.h"
#include "mixers/list.h"

namespace retort {
namespace {

using Change = ExportPiece::Change;

int64_t product(const std::vector<int64_t>& shape, size_t from = 0) {
  int64_t n = 1;
  for (size_t i = from; i < shape.size(); ++i) n *= shape[i];
  return n;
}

// A piece in numbers: which rows of ours, and what they are in theirs.
struct Extent {
  int64_t first = 0, rows = 0, columns = 0;  // ours
  int64_t block = 0;                         // rows of one
  int64_t their_rows = 0, their_columns = 0;

  Extent(const ExportPiece& piece, const TensorSpec& spec) {
    columns = product(spec.shape, 1);
    first = piece.first;
    rows = piece.rows > 0 ? piece.rows : spec.shape[0] - first;
    block = rows / piece.blocks;
    their_rows = rows * piece.times;
    their_columns = columns + piece.fill_columns;
    RETORT_CHECK(first >= 0 && rows > 0 && first + rows <= spec.shape[0] && rows % piece.blocks == 0, piece.source);
    RETORT_CHECK(piece.change != Change::kInterleaved || block % 2 == 0, piece.source);
  }

  // Calls fn(our row, their row, whether it is the first of its copies).
  template <class Fn>
  void each_row(const ExportPiece& piece, Fn&& fn) const {
    const bool interleaved = piece.change == Change::kInterleaved;
    int64_t theirs = 0;
    for (int64_t b = 0; b < piece.blocks; ++b) {
      for (int t = 0; t < piece.times; ++t) {
        for (int64_t r = 0; r < block; ++r) {
          const int64_t in_block = interleaved ? r / 2 + r % 2 * (block / 2) : r;
          fn(first + b * block + in_block, theirs++, t == 0);
        }
      }
    }
  }
};

int64_t piece_values(const ExportTensor& tensor, const ExportPiece& piece, const SpecsByName& specs) {
  if (piece.source.empty()) return piece.fill_rows * product(tensor.shape, 1);
  const Extent e(piece, specs.at(piece.source));
  return e.their_rows * e.their_columns;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

class ExportedWeights : public WeightStore {
 public:
  ExportedWeights(std::shared_ptr<const WeightStore> theirs, ExportPlan plan, const ModelConfig& config)
      : theirs_(std::move(theirs)), plan_(std::move(plan)), specs_(specs_by_name(config)) {
    for (const ExportTensor& tensor : plan_.tensors) {
      int64_t at = 0;
      for (const ExportPiece& piece : tensor.pieces) {
        if (!piece.source.empty()) places_[piece.source].push_back({&tensor, &piece, at});
        at += piece_values(tensor, piece, specs_);
      }
      RETORT_CHECK(at == product(tensor.shape), tensor.name);
    }
  }

  Status check() const {
    for (const ExportTensor& tensor : plan_.tensors) {
      RETORT_TRY(const TensorView view, theirs_->tensor(tensor.name));
      if (view.shape != tensor.shape) return invalid(path(), ": tensor '", tensor.name, "' is not of the shape that its configuration asks for");
    }
    return {};
  }

  bool has(const std::string& name) const override { return places_.count(name) > 0; }
  const std::string& path() const override { return theirs_->path(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, places] : places_) out.push_back(name);
    return out;
  }

  Result<TensorView> tensor(const std::string& name) const override {
    const auto found = places_.find(name);
    if (found == places_.end()) return invalid(path(), ": tensor '", name, "' is missing");
    const TensorSpec& spec = specs_.at(name);
    RETORT_TRY(TensorView view, theirs_->tensor(found->second.front().tensor->name));
    if (found->second.size() == 1 && as_stored(found->second.front(), spec, view.type)) {
      view.data += row_bytes(view.type, found->second.front().offset);
      view.name = name;
      view.shape = spec.shape;
      return view;
    }
    const std::lock_guard lock(mutex_);
    auto cached = copies_.find(name);
    if (cached == copies_.end()) {
      RETORT_TRY(auto values, assemble(found->second, spec));
      cached = copies_.emplace(name, std::move(values)).first;
    }
    return TensorView{name, TensorType::kF32, spec.shape, reinterpret_cast<const std::byte*>(cached->second.data())};
  }

 private:
  struct Place {
    const ExportTensor* tensor;
    const ExportPiece* piece;
    int64_t offset;  // values of theirs before it
  };

  static bool as_stored(const Place& place, const TensorSpec& spec, TensorType type) {
    const ExportPiece& p = *place.piece;
    const bool whole = p.first == 0 && (p.rows == 0 || p.rows == spec.shape[0]);
    return whole && p.times == 1 && p.change == Change::kNone && p.fill_columns == 0 && place.offset % tensor_type_info(type).block_values == 0;
  }

  Result<std::vector<float>> assemble(const std::vector<Place>& places, const TensorSpec& spec) const {
    std::vector<float> ours(static_cast<size_t>(spec.count()));
    for (const Place& place : places) {
      RETORT_TRY(const TensorView view, theirs_->tensor(place.tensor->name));
      RETORT_TRY(const std::vector<float> stored, read_f32(view));
      const bool again = &place != &places.front() && place.piece->first == 0 && place.piece->rows == 0;
      RETORT_RETURN_IF_ERROR(take(place, spec, again, stored, ours));
    }
    const auto rounding = plan_.roundings.find(spec.name);
    if (rounding != plan_.roundings.end()) add_rounding(ours, rounding->second);
    return ours;
  }

  // `again`: what a place before had already.
  Status take(const Place& place, const TensorSpec& spec, bool again, const std::vector<float>& stored, std::vector<float>& ours) const {
    const ExportPiece& piece = *place.piece;
    const Extent e(piece, spec);
    bool copies_agree = true, fill_kept = true;
    e.each_row(piece, [&](int64_t our_row, int64_t their_row, bool first_copy) {
      const float* from = stored.data() + place.offset + their_row * e.their_columns;
      float* to = ours.data() + our_row * e.columns;
      for (int64_t c = 0; c < e.columns; ++c) {
        const float value = restored(piece.change, from[c]);
        if (first_copy && !again) to[c] = value;
        copies_agree = copies_agree && same_bits(to[c], value);
      }
      for (int64_t c = e.columns; c < e.their_columns; ++c) fill_kept = fill_kept && from[c] == piece.fill;
    });
    if (copies_agree && fill_kept) return {};
    return invalid(path(), ": tensor '", place.tensor->name, "': ", copies_agree ? "columns that hold nothing" : "rows that are copies of others",
                   " have changed since it was exported; it cannot be read back as the same student");
  }

  std::shared_ptr<const WeightStore> theirs_;
  ExportPlan plan_;
  SpecsByName specs_;
  std::map<std::string, std::vector<Place>> places_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<float>> copies_;  // stable addresses
};

}  // namespace

float changed(Change change, float v) {
  if (change == Change::kMinusOne) return v - 1.0f;
  if (change == Change::kMinusExp) return static_cast<float>(-std::exp(double{v}));
  return v;
}

float restored(Change change, float v) {
  if (change == Change::kMinusOne) return v + 1.0f;
  if (change == Change::kMinusExp) return static_cast<float>(std::log(-double{v}));
  return v;
}

SpecsByName specs_by_name(const ModelConfig& config) {
  SpecsByName out;
  for (TensorSpec& spec : model_tensors(config)) {
    std::string name = spec.name;
    out.emplace(std::move(name), std::move(spec));
  }
  return out;
}

Result<std::vector<float>> gather(const ExportTensor& tensor, const SpecsByName& specs, const TensorValues& values) {
  std::vector<float> out;
  out.reserve(static_cast<size_t>(product(tensor.shape)));
  for (const ExportPiece& piece : tensor.pieces) {
    if (piece.source.empty()) {
      out.insert(out.end(), static_cast<size_t>(piece_values(tensor, piece, specs)), piece.fill);
      continue;
    }
    const Extent e(piece, specs.at(piece.source));
    RETORT_TRY(const std::vector<float> ours, values(piece.source));
    e.each_row(piece, [&](int64_t our_row, int64_t, bool) {
      for (int64_t c = 0; c < e.columns; ++c) out.push_back(changed(piece.change, ours[static_cast<size_t>(our_row * e.columns + c)]));
      out.insert(out.end(), static_cast<size_t>(piece.fill_columns), piece.fill);
    });
  }
  RETORT_CHECK(static_cast<int64_t>(out.size()) == product(tensor.shape), tensor.name);
  return out;
}

Result<std::shared_ptr<const WeightStore>> exported_weights(std::shared_ptr<const WeightStore> theirs, ExportPlan plan, const ModelConfig& config) {
  auto store = std::make_shared<ExportedWeights>(std::move(theirs), std::move(plan), config);
  RETORT_RETURN_IF_ERROR(store->check());
  return std::shared_ptr<const WeightStore>(std::move(store));
}

}  // namespace retort
