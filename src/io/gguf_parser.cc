#include "io/gguf_parser.h"

#include <algorithm>
#include <cstring>

namespace retort {
namespace gguf {

const char* kind_name(uint32_t kind) {
  static constexpr const char* kNames[] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "text", "array", "u64", "i64", "f64"};
  return kind < std::size(kNames) ? kNames[kind] : "unknown";
}

int kind_bytes(uint32_t kind) {
  static constexpr int kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kind < std::size(kBytes) ? kBytes[kind] : 0;
}

namespace {
constexpr uint64_t kMostKeyBytes = 65535, kMostNameBytes = 1024;
// What the shortest pair (empty key, one byte) and tensor (empty name, one size) take: bounds a count before it is
// believed.
constexpr uint64_t kLeastPairBytes = 8 + 4 + 1, kLeastTensorBytes = 8 + 4 + 8 + 4 + 8;
}  // namespace

}  // namespace gguf

using gguf::Kind;

class GgufParser {
 public:
  explicit GgufParser(std::shared_ptr<const MappedFile> file) : bytes_(file->bytes()) { out_.file_ = std::move(file); }

  Result<GgufFile> run() {
    uint64_t tensors = 0, pairs = 0;
    RETORT_RETURN_IF_ERROR(header(&tensors, &pairs));
    for (uint64_t i = 0; i < pairs; ++i) RETORT_RETURN_IF_ERROR(pair());
    RETORT_RETURN_IF_ERROR(alignment());
    out_.tensors_.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) RETORT_RETURN_IF_ERROR(tensor());
    RETORT_RETURN_IF_ERROR(place_tensors());
    return std::move(out_);
  }

 private:
  struct Offset {
    size_t tensor;
    uint64_t begin, end;  // from the start of the data
  };

  template <class... Args>
  Error bad(const Args&... args) const {
    return invalid(out_.path(), ": ", args...);
  }
  uint64_t left() const { return bytes_.size() - at_; }
  Error cut(const char* what) const {
    return bad("cut short: ", what, " at byte ", at_, " does not fit into ", bytes_.size(), " bytes");
  }

  template <class T>
  Status number(T* value, const char* what) {
    if (left() < sizeof(T)) return cut(what);
    std::memcpy(value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return {};
  }

  Status string(std::string_view* value, const char* what, uint64_t most) {
    uint64_t length = 0;
    RETORT_RETURN_IF_ERROR(number(&length, what));
    if (length > left()) return cut(what);
    if (length > most) return bad(what, " at byte ", at_, " has ", length, " bytes; at most ", most, " are allowed");
    *value = {reinterpret_cast<const char*>(bytes_.data()) + at_, length};
    at_ += length;
    return {};
  }

  Status header(uint64_t* tensors, uint64_t* pairs) {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0)
      return bad("not a GGUF file (it does not start with 'GGUF')");
    at_ = 4;
    uint32_t version = 0;
    RETORT_RETURN_IF_ERROR(number(&version, "the version"));
    if (version == 0x02000000 || version == 0x03000000)
      return bad("big-endian GGUF; only little-endian files are read");
    if (version != 2 && version != 3) return bad("GGUF version ", version, "; versions 2 and 3 are read");
    RETORT_RETURN_IF_ERROR(number(tensors, "the tensor count"));
    RETORT_RETURN_IF_ERROR(number(pairs, "the metadata count"));
    if (*pairs > left() / gguf::kLeastPairBytes)
      return bad("claims ", *pairs, " metadata keys, more than ", bytes_.size(), " bytes can hold");
    if (*tensors > left() / gguf::kLeastTensorBytes)
      return bad("claims ", *tensors, " tensors, more than ", bytes_.size(), " bytes can hold");
    return {};
  }

  Status pair() {
    std::string_view key;
    RETORT_RETURN_IF_ERROR(string(&key, "a metadata key", gguf::kMostKeyBytes));
    GgufFile::Value value;
    RETORT_RETURN_IF_ERROR(number(&value.type, "a metadata kind"));
    if (static_cast<Kind>(value.type) == Kind::kArray) {
      value.array = true;
      RETORT_RETURN_IF_ERROR(number(&value.type, "an array's kind"));
      RETORT_RETURN_IF_ERROR(number(&value.count, "an array's length"));
    }
    RETORT_RETURN_IF_ERROR(elements(key, &value));
    if (!out_.values_.emplace(std::string(key), std::move(value)).second)
      return bad("metadata key '", key, "' appears twice");
    return {};
  }

  Status elements(std::string_view key, GgufFile::Value* value) {
    if (static_cast<Kind>(value->type) == Kind::kString) {
      if (value->count > left() / sizeof(uint64_t))
        return bad("metadata key '", key, "': ", value->count, " texts do not fit into the file");
      value->strings.resize(value->count);
      for (auto& s : value->strings) RETORT_RETURN_IF_ERROR(string(&s, "a metadata text", bytes_.size()));
      return {};
    }
    if (static_cast<Kind>(value->type) == Kind::kArray)
      return bad("metadata key '", key, "' is an array of arrays, which no model needs");
    const auto size = static_cast<uint64_t>(gguf::kind_bytes(value->type));
    if (size == 0) return bad("metadata key '", key, "' has unknown kind ", value->type, " (byte ", at_, ")");
    if (value->count > left() / size)
      return bad("metadata key '", key, "': ", value->count, " values do not fit into the file");
    value->raw = bytes_.subspan(at_, value->count * size);
    at_ += value->raw.size();
    return {};
  }

  Status alignment() {
    RETORT_TRY(const int64_t value, out_.integer_or("general.alignment", 32));
    if (value < 8 || value > 1 << 20 || (value & (value - 1)) != 0) {
      return bad("general.alignment is ", value, "; expected a power of two from 8 to 1048576");
    }
    alignment_ = static_cast<uint64_t>(value);
    return {};
  }

  Status tensor() {
    std::string_view name;
    RETORT_RETURN_IF_ERROR(string(&name, "a tensor name", gguf::kMostNameBytes));
    GgufTensor tensor;
    tensor.name = std::string(name);
    uint32_t dims = 0, type = 0;
    RETORT_RETURN_IF_ERROR(number(&dims, "a tensor's rank"));
    if (dims < 1 || dims > 4) return bad("tensor '", name, "' has ", dims, " dimensions; expected 1 to 4");
    uint64_t count = 1;
    tensor.shape.resize(dims);
    for (uint32_t d = 0; d < dims; ++d) {
      uint64_t size = 0;
      RETORT_RETURN_IF_ERROR(number(&size, "a tensor's size"));
      // Every value takes at least half a byte in every type, so a count above twice the file's bytes is a lie; it also
      // keeps the products below from overflowing.
      if (size < 1 || size > 2 * bytes_.size() / count)
        return bad("tensor '", name, "': size ", size, " in dimension ", d, " cannot fit into ", bytes_.size(),
                   " bytes");
      count *= size;
      tensor.shape[dims - 1 - d] = static_cast<int64_t>(size);
    }
    RETORT_RETURN_IF_ERROR(number(&type, "a tensor's type"));
    const auto known = tensor_type_from_id(type);
    if (!known) {
      return bad("tensor '", name, "' has type ", type, " (", unsupported_type_name(type), "); Retort reads ",
                 supported_type_names());
    }
    tensor.type = *known;
    const TensorTypeInfo& format = tensor_type_info(*known);
    const int64_t row = tensor.shape.back();
    if (row % format.block_values)
      return bad("tensor '", name, "': rows of ", row, " values do not divide into ", format.name, " blocks of ",
                 format.block_values);
    uint64_t offset = 0;
    RETORT_RETURN_IF_ERROR(number(&offset, "a tensor's offset"));
    if (offset % alignment_)
      return bad("tensor '", name, "': offset ", offset, " is not a multiple of the alignment ", alignment_);
    const uint64_t size =
        count / static_cast<uint64_t>(format.block_values) * static_cast<uint64_t>(format.block_bytes);
    if (offset > bytes_.size() || size > bytes_.size() - offset) return outside(tensor.name, offset, size);
    if (!out_.tensor_index_.emplace(tensor.name, out_.tensors_.size()).second)
      return bad("tensor '", name, "' appears twice");
    places_.push_back({out_.tensors_.size(), offset, offset + size});
    out_.tensors_.push_back(std::move(tensor));
    return {};
  }

  Error outside(const std::string& name, uint64_t offset, uint64_t size) const {
    return bad("tensor '", name, "': ", size, " bytes at offset ", offset, " lie outside the file of ", bytes_.size(),
               " bytes (cut short?)");
  }

  // The table is complete: find where the data starts, and give every tensor its bytes.
  Status place_tensors() {
    if (places_.empty()) return {};
    const uint64_t start = (at_ + alignment_ - 1) / alignment_ * alignment_;
    if (start > bytes_.size()) return cut("the tensor data");
    const auto data = bytes_.subspan(start);
    std::sort(places_.begin(), places_.end(), [](const Offset& a, const Offset& b) { return a.begin < b.begin; });
    const Offset* before = nullptr;
    for (const Offset& place : places_) {
      GgufTensor& tensor = out_.tensors_[place.tensor];
      if (place.end > data.size()) return outside(tensor.name, start + place.begin, place.end - place.begin);
      if (before && place.begin < before->end) {
        return bad("tensors '", out_.tensors_[before->tensor].name, "' and '", tensor.name, "' overlap at offset ",
                   place.begin);
      }
      tensor.bytes = data.subspan(place.begin, place.end - place.begin);
      before = &place;
    }
    return {};
  }

  GgufFile out_;
  std::span<const std::byte> bytes_;
  uint64_t at_ = 0, alignment_ = 32;
  std::vector<Offset> places_;
};

Result<GgufFile> GgufFile::parse(std::shared_ptr<const MappedFile> file) { return GgufParser(std::move(file)).run(); }

}  // namespace retort
