#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace retort {

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  // Without O_NONBLOCK a pipe that nobody writes to would hang here, before it can be refused.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return invalid("cannot open ", path, ": ", std::strerror(errno));
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    const int code = errno;
    ::close(fd);
    return io_error("cannot read ", path, ": ", std::strerror(code));
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return invalid(path, ": not a regular file", S_ISDIR(info.st_mode) ? " (it is a folder)" : "");
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  if (info.st_size > 0) {
    const auto size = static_cast<size_t>(info.st_size);
    void* map = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
      const int code = errno;
      ::close(fd);
      return io_error("cannot map ", path, " (", size, " bytes): ", std::strerror(code));
    }
    file->map_ = map;
    file->bytes_ = {static_cast<const std::byte*>(map), size};
  }
  ::close(fd);
  return std::shared_ptr<const MappedFile>(std::move(file));
}

std::shared_ptr<const MappedFile> MappedFile::from_bytes(std::vector<std::byte> bytes, std::string path) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = std::move(path);
  file->owned_ = std::move(bytes);
  file->bytes_ = file->owned_;
  return file;
}

MappedFile::~MappedFile() {
  if (map_) ::munmap(map_, bytes_.size());
}

Result<std::string> read_text_file(const std::string& path, size_t limit) {
  RETORT_TRY(auto file, MappedFile::open(path));
  if (file->size() > limit) return invalid(path, ": ", file->size(), " bytes; at most ", limit, " are expected here");
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->size());
}

}  // namespace retort
