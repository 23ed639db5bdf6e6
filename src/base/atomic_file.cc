#include "base/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/path.h"

namespace retort {
namespace {

namespace fs = std::filesystem;

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

std::string temporary_name(const std::string& path) { return cat(path, ".tmp.", ::getpid()); }

void remove_leftovers_of_dead_writers(const std::string& path) {
  const std::string prefix = fs::path(path).filename().string() + ".tmp.";
  std::error_code error;
  for (auto it = fs::directory_iterator(parent_of(path), error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.size() <= prefix.size() || name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string digits = name.substr(prefix.size());
    if (digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto pid = static_cast<pid_t>(std::atol(digits.c_str()));
    if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) {
      std::error_code ignored;
      fs::remove_all(it->path(), ignored);
    }
  }
}

// Makes a rename survive a power cut. Some file systems cannot sync a folder; that is no failure.
Status sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return {};
  const int result = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  if (result != 0 && code != EINVAL && code != ENOTSUP)
    return io_error("cannot write ", folder, ": ", std::strerror(code));
  return {};
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::string& path, uint64_t expected_bytes) {
  if (is_folder(path)) return invalid("cannot write ", path, ": it is a folder");
  remove_leftovers_of_dead_writers(path);
  AtomicFile file;
  file.path_ = path;
  file.temporary_ = temporary_name(path);
  file.expected_ = expected_bytes;
  file.fd_ = ::open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file.fd_ < 0) {
    const Error error = file.failure(errno);
    file.temporary_.clear();
    return error;
  }
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::exchange(other.fd_, -1)),
      written_(other.written_),
      expected_(other.expected_) {}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Error AtomicFile::failure(int code) const {
  std::string detail;
  struct statvfs info {};
  if (code == ENOSPC || code == EDQUOT || code == EFBIG) {
    detail = cat(" (", std::max(expected_, written_), " bytes needed");
    if (::statvfs(parent_of(path_).c_str(), &info) == 0) {
      detail += cat(", ", static_cast<uint64_t>(info.f_bavail) * info.f_frsize, " free");
    }
    detail += ")";
  }
  return io_error("cannot write ", path_, ": ", std::strerror(code), detail);
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  written_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failure(errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

Status AtomicFile::commit() {
  if (::fsync(fd_) != 0) return failure(errno);
  if (::close(std::exchange(fd_, -1)) != 0) return failure(errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return failure(errno);
  temporary_.clear();
  return sync_folder(parent_of(path_));
}

Result<AtomicFolder> AtomicFolder::create(const std::string& target) {
  AtomicFolder folder;
  folder.target_ = without_trailing_slashes(target);
  if (folder.target_.empty()) return invalid("cannot write a folder without a name");
  if (path_exists(folder.target_) && !is_folder(folder.target_)) {
    return invalid("cannot write the folder ", folder.target_, ": a file of that name is there");
  }
  std::error_code error;
  fs::create_directories(parent_of(folder.target_), error);
  if (error) return io_error("cannot make ", parent_of(folder.target_), ": ", error.message());
  remove_leftovers_of_dead_writers(folder.target_);
  const std::string temporary = temporary_name(folder.target_);
  fs::remove_all(temporary, error);
  if (!fs::create_directory(temporary, error) || error)
    return io_error("cannot make ", temporary, ": ", error.message());
  folder.temporary_ = temporary;
  return folder;
}

AtomicFolder::AtomicFolder(AtomicFolder&& other) noexcept
    : target_(std::move(other.target_)), temporary_(std::exchange(other.temporary_, {})) {}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

Status AtomicFolder::commit() {
  RETORT_RETURN_IF_ERROR(sync_folder(temporary_));
  if (::rename(temporary_.c_str(), target_.c_str()) == 0) {
    temporary_.clear();
    return sync_folder(parent_of(target_));
  }
  if (errno != ENOTEMPTY && errno != EEXIST) return io_error("cannot write ", target_, ": ", std::strerror(errno));
  // The old folder changes places with the new one in a single step; the destructor then removes it.
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
    return io_error("cannot replace ", target_, ": ", std::strerror(errno), "; remove it first");
  }
  return sync_folder(parent_of(target_));
}

Status check_can_write(const std::string& path) {
  if (path.empty()) return {};
  const auto file = AtomicFile::create(path);
  return file.ok() ? Status() : Status(file.error());
}

Status write_text_file(const std::string& path, std::string_view text) {
  RETORT_TRY(auto file, AtomicFile::create(path, text.size()));
  RETORT_RETURN_IF_ERROR(file.write(text));
  return file.commit();
}

}  // namespace retort
