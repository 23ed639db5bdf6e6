#include "train/append_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace retort::train {

Error AppendFile::failure() const { return io_error("cannot write ", path_, ": ", std::strerror(errno)); }

Result<AppendFile> AppendFile::open(const std::string& path, uint64_t keep) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return io_error("cannot write ", path, ": ", std::strerror(errno));
  struct stat info {};
  uint64_t size = 0;
  if (::fstat(fd, &info) == 0) size = std::min<uint64_t>(keep, uint64_t(info.st_size));
  if (::ftruncate(fd, off_t(size)) != 0 || ::lseek(fd, off_t(size), SEEK_SET) < 0) {
    const Error error = io_error("cannot write ", path, ": ", std::strerror(errno));
    ::close(fd);
    return error;
  }
  std::FILE* file = ::fdopen(fd, "wb");
  if (!file) {
    ::close(fd);
    return io_error("cannot write ", path, ": ", std::strerror(errno));
  }
  return AppendFile(file, path, size);
}

Status AppendFile::write(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) return failure();
  size_ += bytes.size();
  return {};
}

Status AppendFile::flush() {
  if (std::fflush(file_.get()) != 0) return failure();
  return {};
}

}  // namespace retort::train
