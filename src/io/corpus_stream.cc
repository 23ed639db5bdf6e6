#include "io/corpus_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/path.h"

namespace retort {
namespace {

constexpr size_t kChunk = 1 << 17;

class FileBytes : public ByteStream {
 public:
  FileBytes(std::FILE* file, std::string path) : file_(file), path_(std::move(path)) {}
  ~FileBytes() override { std::fclose(file_); }
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  Result<bool> read(std::string& out) override {
    const size_t before = out.size();
    out.resize(before + kChunk);
    const size_t n = std::fread(out.data() + before, 1, kChunk, file_);
    out.resize(before + n);
    if (n == 0 && std::ferror(file_)) return io_error(path_, ": ", std::strerror(errno));
    return n > 0;
  }

 private:
  std::FILE* file_;
  std::string path_;
};

class MemoryBytes : public ByteStream {
 public:
  explicit MemoryBytes(std::string content) : content_(std::move(content)) {}
  Result<bool> read(std::string& out) override {
    if (content_.empty()) return false;
    out += std::exchange(content_, {});
    return true;
  }

 private:
  std::string content_;
};

// What both decompressors share: compressed bytes in `input_`, from `used_` on.
class Unpacker : public ByteStream {
 public:
  Unpacker(std::unique_ptr<ByteStream> source, std::string input, std::string path)
      : source_(std::move(source)), input_(std::move(input)), path_(std::move(path)) {}

 protected:
  // Makes sure that there is input; false at the end of the file.
  Result<bool> fill() {
    if (used_ < input_.size()) return true;
    consumed_ += used_;
    input_.clear();
    used_ = 0;
    return source_->read(input_);
  }
  Error broken(const char* what, const char* why) const {
    return invalid(path_, ": ", what, " data is broken at byte ", consumed_ + used_, " of the file: ", why);
  }

  std::unique_ptr<ByteStream> source_;
  std::string input_, path_;
  size_t used_ = 0, consumed_ = 0;
};

class GzipBytes : public Unpacker {
 public:
  using Unpacker::Unpacker;
  ~GzipBytes() override {
    if (open_) inflateEnd(&z_);
  }

  Result<bool> read(std::string& out) override {
    while (true) {
      RETORT_TRY(const bool more, fill());
      if (!more) {
        if (open_) return broken("gzip", "the file ends too early");
        return false;
      }
      if (!open_) {
        z_ = {};
        if (inflateInit2(&z_, 15 + 16) != Z_OK) return io_error(path_, ": out of memory");
        open_ = true;
      }
      const size_t before = out.size();
      out.resize(before + kChunk);
      z_.next_in = reinterpret_cast<Bytef*>(input_.data() + used_);
      z_.avail_in = uInt(input_.size() - used_);
      z_.next_out = reinterpret_cast<Bytef*>(out.data() + before);
      z_.avail_out = uInt(kChunk);
      const int result = inflate(&z_, Z_NO_FLUSH);
      used_ = input_.size() - z_.avail_in;
      out.resize(before + kChunk - z_.avail_out);
      if (result == Z_STREAM_END) {  // another member may follow
        inflateEnd(&z_);
        open_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return broken("gzip", z_.msg == nullptr ? "not a gzip stream" : z_.msg);
      }
      if (out.size() > before) return true;
    }
  }

 private:
  z_stream z_{};
  bool open_ = false;
};

class ZstdBytes : public Unpacker {
 public:
  ZstdBytes(std::unique_ptr<ByteStream> source, std::string input, std::string path)
      : Unpacker(std::move(source), std::move(input), std::move(path)), context_(ZSTD_createDCtx()) {
    if (context_) ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, 27);
  }
  ~ZstdBytes() override { ZSTD_freeDCtx(context_); }
  ZstdBytes(const ZstdBytes&) = delete;
  ZstdBytes& operator=(const ZstdBytes&) = delete;

  Result<bool> read(std::string& out) override {
    if (context_ == nullptr) return io_error(path_, ": out of memory");
    while (true) {
      RETORT_TRY(const bool more, fill());
      if (!more && !in_frame_) return false;
      const size_t before = out.size();
      out.resize(before + kChunk);
      ZSTD_inBuffer in{input_.data(), input_.size(), used_};
      ZSTD_outBuffer to{out.data() + before, kChunk, 0};
      const size_t result = ZSTD_decompressStream(context_, &to, &in);
      used_ = in.pos;
      out.resize(before + to.pos);
      if (ZSTD_isError(result)) return broken("zstd", ZSTD_getErrorName(result));
      in_frame_ = result != 0;
      if (to.pos > 0) return true;
      if (!more && in_frame_) return broken("zstd", "the file ends too early");
    }
  }

 private:
  ZSTD_DCtx* context_;
  bool in_frame_ = false;
};

// "gzip" or "zstd" when the name says so, otherwise null.
const char* packing_of(std::string_view name) { return name.ends_with(".gz") ? "gzip" : name.ends_with(".zst") ? "zstd" : nullptr; }

Result<std::unique_ptr<ByteStream>> unpacked(std::unique_ptr<ByteStream> source, const std::string& path) {
  std::string head;
  while (head.size() < 4) {
    RETORT_TRY(const bool more, source->read(head));
    if (!more) break;
  }
  std::unique_ptr<ByteStream> out;
  if (head.compare(0, 2, "\x1f\x8b") == 0) {
    out = std::make_unique<GzipBytes>(std::move(source), std::move(head), path);
  } else if (head.compare(0, 4, "\x28\xb5\x2f\xfd") == 0) {
    out = std::make_unique<ZstdBytes>(std::move(source), std::move(head), path);
  } else if (const char* packing = packing_of(path)) {
    return invalid(path, ": not ", packing, " data, though its name says so");
  } else {
    // Uncompressed: the head first, then the rest.
    struct Plain : ByteStream {
      std::string head;
      std::unique_ptr<ByteStream> rest;
      Result<bool> read(std::string& to) override {
        if (head.empty()) return rest->read(to);
        to += std::exchange(head, {});
        return true;
      }
    };
    auto plain = std::make_unique<Plain>();
    plain->head = std::move(head);
    plain->rest = std::move(source);
    out = std::move(plain);
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<ByteStream>> open_byte_stream(const std::string& path) {
  if (is_folder(path)) return invalid(path, ": a folder; a file is expected");
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return invalid(path, ": ", std::strerror(errno));
  return unpacked(std::make_unique<FileBytes>(file, path), path);
}

Result<std::unique_ptr<ByteStream>> memory_byte_stream(std::string content, const std::string& name) {
  return unpacked(std::make_unique<MemoryBytes>(std::move(content)), name);
}

}  // namespace retort
