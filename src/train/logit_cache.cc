#include "train/logit_cache.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "io/json_fields.h"
#include "train/run_state.h"

namespace retort::train {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "records are written as they are in memory");

constexpr const char* kFormat = "retort-logits";
constexpr int kVersion = 1;
constexpr double kMostOff = 0.02;   // of the sum of a position's p and rest from 1: f16 is off by less than 0.005

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <class T>
T get(std::string_view bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

// Eight bytes at a time: a record has tens of thousands.
uint64_t checksum(std::string_view bytes) {
  uint64_t hash = kFnvStart;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) hash = fnv1a_unit(get<uint64_t>(bytes.substr(i), 0), hash);
  return fnv1a(bytes.substr(i), hash);
}

nlohmann::json index_of(const nlohmann::json& made_of) { return {{"format", kFormat}, {"version", kVersion}, {"made_of", made_of}}; }

// That an index says `made_of`.
Status check_index(const std::string& path, const nlohmann::json& made_of) {
  RETORT_TRY(const auto text, read_text_file(path, size_t{1} << 20));
  RETORT_TRY(const auto index, parse_json_object(path, text));
  if (!index.contains("format") || index["format"] != kFormat || !index.contains("made_of") || !index["made_of"].is_object()) {
    return invalid(path, ": not the index of a cache of logits");
  }
  if (!index.contains("version") || index["version"] != kVersion) return invalid(path, ": a cache of another version; this one reads version ", kVersion);
  const auto difference = recipe_difference(index["made_of"], made_of);
  if (difference.empty()) return {};
  return invalid(fs::path(path).parent_path().string(), ": logits of something else than this stage asks for: ", difference,
                 "; name another folder, or remove this one");
}

}  // namespace

uint64_t row_hash(const Batch& batch, int row) {
  const int64_t first = int64_t(row) * batch.seq, last = first + batch.seq;
  uint64_t hash = kFnvStart;
  for (int64_t i = first; i < last; ++i) hash = fnv1a_unit(uint64_t(uint32_t(batch.tokens[size_t(i)])), hash);
  for (const int32_t start : batch.starts) {
    if (start >= first && start < last) hash = fnv1a_unit(uint64_t(start - first) + (uint64_t{1} << 40), hash);
  }
  return hash;
}

Result<std::shared_ptr<LogitCache>> LogitCache::open(const std::string& folder, const nlohmann::json& made_of, LogitShape shape) {
  if (shape.top_k > shape.vocab_size) return invalid(folder, ": top_k is ", shape.top_k, "; the vocabulary has ", shape.vocab_size, " tokens");
  std::shared_ptr<LogitCache> cache(new LogitCache(without_trailing_slashes(folder), made_of, shape));
  const std::string& path = cache->folder_;
  if (!path_exists(path)) return cache;
  if (!is_folder(path)) return invalid(path, ": a file; a cache of logits is a folder");
  if (!path_exists(path + "/index.json")) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(path, error)) {
      const auto name = entry.path().filename().string();
      if (name == ".lock" || name.find(".tmp.") != std::string::npos) continue;
      return invalid(path, ": not empty, and no cache of logits; name another folder");
    }
    return cache;
  }
  RETORT_RETURN_IF_ERROR(check_index(path + "/index.json", made_of));
  RETORT_RETURN_IF_ERROR(cache->open_rows());
  return cache;
}

LogitCache::~LogitCache() {
  if (rows_fd_ >= 0) ::close(rows_fd_);
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

// Sees how many records there are by now.
Status LogitCache::open_rows() {
  const std::string path = folder_ + "/rows.bin";
  if (rows_fd_ < 0) rows_fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (rows_fd_ < 0 && errno == ENOENT) return {};   // killed between the two files
  struct stat info {};
  if (rows_fd_ < 0 || ::fstat(rows_fd_, &info) != 0) return io_error("cannot read ", path, ": ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return invalid(path, ": not a file");
  rows_ = info.st_size / record_bytes();
  return {};
}

std::string LogitCache::encode(const TopLogits& logits) const {
  std::string out;
  out.reserve(size_t(record_bytes()));
  for (const int32_t id : logits.ids) {
    if (shape_.vocab_size > 65536) put(out, uint32_t(id));
    else put(out, uint16_t(id));
  }
  for (const float log_p : logits.log_p) put(out, float_to_f16(std::clamp(log_p, -65504.0f, 0.0f)));
  for (const float rest : logits.rest) put(out, float_to_f16(std::clamp(rest, 0.0f, 1.0f)));
  return out;
}

Result<TopLogits> LogitCache::decode(std::string_view payload, int64_t row) const {
  const auto bad = [&](const auto&... what) { return invalid(folder_, "/rows.bin: row ", row, ": ", what..., "; remove the folder to make the cache anew"); };
  const size_t k = size_t(shape_.top_k), count = size_t(shape_.seq) * k;
  const size_t id_bytes = shape_.vocab_size > 65536 ? 4 : 2;
  const std::string_view ids = payload.substr(0, count * id_bytes), log_p = payload.substr(ids.size(), count * 2), rest = payload.substr(ids.size() + log_p.size());
  TopLogits out;
  out.ids.resize(count), out.log_p.resize(count), out.rest.resize(size_t(shape_.seq));
  for (size_t t = 0; t < out.rest.size(); ++t) {
    double sum = 0;
    for (size_t i = t * k; i < (t + 1) * k; ++i) {
      const int64_t id = id_bytes == 4 ? int64_t(get<uint32_t>(ids, i)) : int64_t(get<uint16_t>(ids, i));
      if (id >= shape_.vocab_size || (i > t * k && id <= out.ids[i - 1])) return bad("the ids of position ", t, " are not rising ones of the vocabulary");
      out.ids[i] = int32_t(id);
      out.log_p[i] = f16_to_float(get<uint16_t>(log_p, i));
      if (!(out.log_p[i] <= 0) || std::isinf(out.log_p[i])) return bad("a log-probability of position ", t, " is ", out.log_p[i]);
      sum += std::exp(double(out.log_p[i]));
    }
    out.rest[t] = f16_to_float(get<uint16_t>(rest, t));
    if (!(out.rest[t] >= 0 && out.rest[t] <= 1) || std::fabs(sum + double(out.rest[t]) - 1) > kMostOff) {
      return bad("the probabilities of position ", t, " sum to ", sum + double(out.rest[t]));
    }
    // All by one factor: p are exact to a share of themselves, and so is the rest; 1 - rest, where p are small, is not.
    const double total = sum + double(out.rest[t]), scale = std::log(total);
    for (size_t i = t * k; i < (t + 1) * k; ++i) out.log_p[i] = float(double(out.log_p[i]) - scale);
    out.rest[t] = float(double(out.rest[t]) / total);
  }
  return out;
}

Result<TopLogits> LogitCache::read(int64_t row, uint64_t hash) const {
  RETORT_CHECK(row >= 0 && row < rows_, "a row that the cache has");
  const std::string path = folder_ + "/rows.bin";
  std::string record(size_t(record_bytes()), '\0');
  for (size_t done = 0; done < record.size();) {
    const ssize_t got = ::pread(rows_fd_, record.data() + done, record.size() - done, off_t(row * record_bytes() + int64_t(done)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return io_error("cannot read ", path, ": ", std::strerror(errno));
    if (got == 0) return invalid(path, ": row ", row, ": the file became shorter while it was read");
    done += size_t(got);
  }
  const std::string_view payload = std::string_view(record).substr(16);
  if (get<uint64_t>(record, 1) != checksum(payload)) return invalid(path, ": row ", row, ": damaged, its checksum differs; remove the folder to make the cache anew");
  if (get<uint64_t>(record, 0) != hash) return invalid(path, ": row ", row, ": of another text; remove the folder to make the cache anew");
  return decode(payload, row);
}

Status LogitCache::begin_writing() {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return io_error("cannot make ", folder_, ": ", error.message());
  const std::string lock = folder_ + "/.lock";
  lock_fd_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_fd_ < 0) return io_error("cannot write ", lock, ": ", std::strerror(errno));
  if (::flock(lock_fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return invalid(folder_, ": another process is writing this cache; wait for it, or name another folder");
  }
  if (!path_exists(folder_ + "/index.json")) RETORT_RETURN_IF_ERROR(write_text_file(folder_ + "/index.json", index_of(made_of_).dump(1) + "\n"));
  const int64_t before = rows_;
  RETORT_RETURN_IF_ERROR(check_index(folder_ + "/index.json", made_of_));
  RETORT_RETURN_IF_ERROR(open_rows());
  if (rows_ > before) return invalid(folder_, ": another process has added to this cache meanwhile; go on with --resume, which reads it");
  RETORT_TRY(auto out, AppendFile::open(folder_ + "/rows.bin", uint64_t(rows_ * record_bytes())));
  out_ = std::move(out);
  return open_rows();
}

Status LogitCache::append(uint64_t hash, TopLogits& logits) {
  if (!out_) RETORT_RETURN_IF_ERROR(begin_writing());
  const std::string payload = encode(logits);
  RETORT_TRY(logits, decode(payload, rows_));  // first: what cannot be read is not written
  std::string head;
  put(head, hash);
  put(head, checksum(payload));
  RETORT_RETURN_IF_ERROR(out_->write(head));
  RETORT_RETURN_IF_ERROR(out_->write(payload));
  ++rows_;
  return {};
}

Status LogitCache::flush() { return out_ ? out_->flush() : Status(); }

Result<TopLogits> LogitCache::rounded(const TopLogits& logits) const { return decode(encode(logits), -1); }

}  // namespace retort::train
