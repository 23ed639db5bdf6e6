#include "runtime/state_file.h"

#include <cstring>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/mapped_file.h"

namespace retort {
namespace {

constexpr char kMagic[8] = {'R', 'E', 'T', 'O', 'R', 'T', 'S', 'T'};
constexpr uint32_t kVersion = 2, kWithoutLogits = 1;

class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) {
      word_ |= uint64_t(b) << (8 * filled_);
      if (++filled_ == 8) flush();
    }
  }
  uint64_t value() {
    flush();
    return hash_;
  }

 private:
  void flush() {
    hash_ = fnv1a_unit(word_, hash_);
    hash_ ^= hash_ >> 29;
    word_ = 0;
    filled_ = 0;
  }
  uint64_t hash_ = kFnvStart, word_ = 0;
  int filled_ = 0;
};

class Writer {
 public:
  explicit Writer(const StateSink& sink) : sink_(sink) {}
  Status bytes(std::span<const std::byte> data) {
    checksum_.add(data);
    return sink_(data);
  }
  template <class T>
  Status numbers(std::span<const T> values) { return bytes(std::as_bytes(values)); }
  template <class T>
  Status number(T value) { return numbers(std::span<const T>(&value, 1)); }
  Status finish() {
    const uint64_t sum = checksum_.value();
    return sink_(std::as_bytes(std::span(&sum, 1)));
  }

 private:
  const StateSink& sink_;
  Checksum checksum_;
};

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  // The next `count` values, or an error when the file ends before.
  template <class T>
  Status read(T* out, uint64_t count) {
    const uint64_t left = bytes_.size() - offset_;
    if (count > left / sizeof(T)) {
      return invalid(name_, ": cut at byte ", bytes_.size(), ": ", count * sizeof(T), " bytes are expected at byte ", offset_);
    }
    if (count > 0) std::memcpy(out, bytes_.data() + offset_, count * sizeof(T));
    offset_ += count * sizeof(T);
    return {};
  }
  uint64_t offset() const { return offset_; }

 private:
  std::span<const std::byte> bytes_;
  const std::string& name_;
  uint64_t offset_ = 0;
};

struct Header {
  uint64_t tokens = 0, position = 0, fixed = 0, caches = 0, logits = 0;
};
uint64_t header_bytes(uint32_t version) { return sizeof(Header) - (version == kWithoutLogits ? sizeof(uint64_t) : 0); }

// An identity is FINGERPRINT-HASH OF WEIGHTS-CACHE TYPE.
std::string identity_difference(const std::string& saved, const std::string& own) {
  const auto upto = [](const std::string& text, int dashes) {
    size_t end = text.find('-');
    while (--dashes > 0 && end != std::string::npos) end = text.find('-', end + 1);
    return text.substr(0, end);
  };
  if (upto(saved, 1) != upto(own, 1)) return "the configuration differs";
  if (upto(saved, 2) != upto(own, 2)) return "the weights differ";
  return "the numbers of the cache differ, which the weight format sets";
}

// The version.
Result<uint32_t> check_identity(Reader& in, const std::string& path, const std::string& identity) {
  char magic[8];
  uint32_t version = 0, length = 0;
  if (!in.read(magic, 8).ok() || std::memcmp(magic, kMagic, 8) != 0) return invalid(path, ": not a state file of Retort");
  RETORT_RETURN_IF_ERROR(in.read(&version, 1));
  if (version != kVersion && version != kWithoutLogits) {
    return invalid(path, ": state file version ", version, "; this program reads versions ", kWithoutLogits, " and ", kVersion);
  }
  RETORT_RETURN_IF_ERROR(in.read(&length, 1));
  if (length > 256) return invalid(path, ": byte 12: an identity of ", length, " bytes; expected at most 256");
  std::string saved(length, '\0');
  RETORT_RETURN_IF_ERROR(in.read(saved.data(), length));
  if (saved != identity) {
    return invalid(path, ": the state belongs to model ", saved, ", not to this one (", identity, "): ",
                   identity_difference(saved, identity));
  }
  return version;
}

Status read_caches(Reader& in, int64_t position, Sequence& sequence) {
  std::vector<std::byte> row;
  for (KvCache& cache : sequence.caches()) {
    row.resize(size_t(cache.row_bytes()));
    for (int64_t r = 0; r < position; ++r) {
      RETORT_RETURN_IF_ERROR(in.read(row.data(), row.size()));
      cache.append_row(row.data());
    }
  }
  return {};
}

}  // namespace

int64_t state_bytes(const std::string& identity, std::span<const int> tokens, const Sequence& sequence, std::span<const float> logits) {
  const size_t head = sizeof kMagic + sizeof kVersion + sizeof(uint32_t) + identity.size() + sizeof(Header);
  return int64_t(head + tokens.size_bytes() + logits.size_bytes() + sizeof(uint64_t)) + sequence.bytes();
}

Status write_state(const StateSink& sink, const std::string& identity, std::span<const int> tokens, const Sequence& sequence,
                   std::span<const float> logits) {
  Writer out(sink);
  RETORT_RETURN_IF_ERROR(out.numbers(std::span<const char>(kMagic)));
  RETORT_RETURN_IF_ERROR(out.number(kVersion));
  RETORT_RETURN_IF_ERROR(out.number(uint32_t(identity.size())));
  RETORT_RETURN_IF_ERROR(out.numbers(std::span<const char>(identity)));
  const Header header{tokens.size(), uint64_t(sequence.position()), sequence.fixed_numbers().size(), sequence.caches().size(), logits.size()};
  RETORT_RETURN_IF_ERROR(out.number(header));
  RETORT_RETURN_IF_ERROR(out.numbers(tokens));
  RETORT_RETURN_IF_ERROR(out.numbers(std::span<const float>(sequence.fixed_numbers())));
  std::vector<std::byte> row;
  for (const KvCache& cache : sequence.caches()) {
    row.resize(size_t(cache.row_bytes()));
    for (int64_t r = 0; r < cache.rows(); ++r) {
      cache.read_row(r, row.data());
      RETORT_RETURN_IF_ERROR(out.bytes(row));
    }
  }
  RETORT_RETURN_IF_ERROR(out.numbers(logits));
  return out.finish();
}

Status write_state_file(const std::string& path, const std::string& identity, std::span<const int> tokens, const Sequence& sequence,
                        std::span<const float> logits) {
  RETORT_TRY(AtomicFile file, AtomicFile::create(path, uint64_t(state_bytes(identity, tokens, sequence, logits))));
  RETORT_RETURN_IF_ERROR(write_state([&](std::span<const std::byte> bytes) { return file.write(bytes); }, identity, tokens, sequence, logits));
  return file.commit();
}

std::string state_content(const std::string& identity, std::span<const int> tokens, const Sequence& sequence, std::span<const float> logits) {
  std::string out;
  out.reserve(size_t(state_bytes(identity, tokens, sequence, logits)));
  const Status written = write_state(
      [&](std::span<const std::byte> bytes) -> Status {
        out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        return {};
      },
      identity, tokens, sequence, logits);
  RETORT_CHECK(written.ok(), "memory takes every byte");
  return out;
}

Result<SavedState> read_state(std::span<const std::byte> bytes, const std::string& name, const std::string& identity,
                              const std::shared_ptr<const StateLayout>& layout) {
  Reader in(bytes, name);
  RETORT_TRY(const uint32_t version, check_identity(in, name, identity));
  Header header;
  const uint64_t size = header_bytes(version);
  RETORT_RETURN_IF_ERROR(in.read(reinterpret_cast<std::byte*>(&header), size));
  SavedState state{{}, Sequence(layout)};
  // Sizes are checked against the file before anything is allocated for them.
  const uint64_t left = bytes.size() - in.offset();
  if (header.position > header.tokens || header.tokens > left / sizeof(int) || header.fixed != uint64_t(layout->fixed_numbers()) ||
      header.caches != layout->growing().size() || header.logits > left / sizeof(float)) {
    return invalid(name, ": byte ", in.offset() - size, ": the state's sizes do not fit the model or the file (cut file?)");
  }
  state.tokens.resize(header.tokens);
  RETORT_RETURN_IF_ERROR(in.read(state.tokens.data(), header.tokens));
  RETORT_RETURN_IF_ERROR(in.read(state.sequence.fixed_numbers().data(), header.fixed));
  RETORT_RETURN_IF_ERROR(read_caches(in, int64_t(header.position), state.sequence));
  state.logits.resize(header.logits);
  RETORT_RETURN_IF_ERROR(in.read(state.logits.data(), header.logits));
  Checksum checksum;
  checksum.add(bytes.first(in.offset()));
  uint64_t saved = 0;
  RETORT_RETURN_IF_ERROR(in.read(&saved, 1));
  if (saved != checksum.value()) return invalid(name, ": damaged: the checksum does not fit the content");
  if (in.offset() != bytes.size()) return invalid(name, ": ", bytes.size() - in.offset(), " bytes follow the end of the state");
  state.sequence.set_position(int64_t(header.position));
  return state;
}

Result<SavedState> read_state_file(const std::string& path, const std::string& identity,
                                   const std::shared_ptr<const StateLayout>& layout) {
  RETORT_TRY(const std::shared_ptr<const MappedFile> file, MappedFile::open(path));
  return read_state(file->bytes(), path, identity, layout);
}

}  // namespace retort
