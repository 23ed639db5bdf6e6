#include "base/atomic_file.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <gtest/gtest.h>

#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "test_files.h"

namespace retort {
namespace {

using test::TempFolder;

size_t entries(const std::string& folder) {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TempFolder folder;
  {
    auto file = AtomicFile::create(folder / "a");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->write("half").ok());
    EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  }
  EXPECT_EQ(entries(folder.str()), 0u);
  ASSERT_TRUE(write_text_file(folder / "a", "one").ok());
  ASSERT_TRUE(write_text_file(folder / "a", "two").ok());
  EXPECT_EQ(test::read_file(folder / "a"), "two");
  EXPECT_EQ(entries(folder.str()), 1u);
}

TEST(AtomicFile, SaysWhy) {
  const TempFolder folder;
  const auto missing = AtomicFile::create(folder / "no/such/a");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kIo);
  EXPECT_NE(missing.error().message.find("No such file or directory"), std::string::npos);
  EXPECT_NE(AtomicFile::create(folder.str()).error().message.find("it is a folder"), std::string::npos);
}

TEST(AtomicFile, RemovesWhatADeadWriterLeft) {
  const TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  test::write_file(cat(folder / "a", ".tmp.", child), "left by kill -9");
  test::write_file(cat(folder / "a", ".tmp.", ::getppid()), "somebody alive is writing");
  ASSERT_TRUE(write_text_file(folder / "a", "x").ok());
  EXPECT_EQ(entries(folder.str()), 2u);
}

// Runs `body` in a child that has `limit` bytes of disk, by a tmpfs of its own; 77: this machine does not let us mount.
template <class Body>
int on_full_disk(const std::string& mount_point, Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool own_namespace = ::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
    if (!own_namespace || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=65536") != 0) {
      ::_exit(77);
    }
    ::_exit(body() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(AtomicFile, FullDisk) {
  const TempFolder folder;
  const std::string path = folder / "big";
  const int code = on_full_disk(folder.str(), [&] {
    const auto status = write_text_file(path, std::string(1 << 20, 'x'));
    if (status.ok() || status.error().code != ErrorCode::kIo) return false;
    const std::string expected = "cannot write " + path + ": No space left on device (1048576 bytes needed, ";
    if (status.error().message.compare(0, expected.size(), expected) != 0) {
      std::fprintf(stderr, "%s\n", status.error().message.c_str());
      return false;
    }
    return entries(folder.str()) == 0;
  });
  if (code == 77) GTEST_SKIP() << "may not mount a small file system here";
  EXPECT_EQ(code, 0);
}

TEST(AtomicFile, FileSizeLimit) {
  const TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto status = write_text_file(folder / "big", std::string(1 << 20, 'x'));
    ::_exit(!status.ok() && status.error().message.find("1048576 bytes needed") != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(entries(folder.str()), 0u);
}

TEST(AtomicFolder, ReplacesWhole) {
  const TempFolder folder;
  const auto write = [&](const std::string& name, bool commit) {
    auto out = AtomicFolder::create(folder / "m/");
    ASSERT_TRUE(out.ok());
    ASSERT_TRUE(write_text_file(out->path() + "/" + name, name).ok());
    if (commit) {
      ASSERT_TRUE(out->commit().ok());
    }
  };
  write("a", true);
  write("b", true);
  EXPECT_FALSE(std::filesystem::exists(folder / "m/a"));
  EXPECT_EQ(test::read_file(folder / "m/b"), "b");
  write("c", false);
  EXPECT_EQ(test::read_file(folder / "m/b"), "b");
  EXPECT_EQ(entries(folder.str()), 1u);
  test::write_file(folder / "file", "x");
  EXPECT_FALSE(AtomicFolder::create(folder / "file").ok());
}

// Names that the file system cannot hold: errors, not exceptions.
TEST(AtomicFile, NamesThatAreTooLong) {
  const std::string name(5000, 'a');
  EXPECT_FALSE(AtomicFile::create(name).ok());
  EXPECT_FALSE(AtomicFolder::create(name).ok());
  EXPECT_FALSE(path_exists(name));
  EXPECT_FALSE(is_folder(name));
}

TEST(MappedFile, MapsAndOutlives) {
  const TempFolder folder;
  test::write_file(folder / "a", "hello");
  auto file = MappedFile::open(folder / "a");
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(write_text_file(folder / "a", "other").ok());
  EXPECT_EQ((*file)->size(), 5u);
  EXPECT_EQ(static_cast<char>((*file)->bytes()[0]), 'h') << "an open map keeps the file it opened";
  test::write_file(folder / "empty", "");
  EXPECT_EQ((*MappedFile::open(folder / "empty"))->size(), 0u);
  EXPECT_FALSE(MappedFile::open(folder / "nothing").ok());
  EXPECT_NE(MappedFile::open(folder.str()).error().message.find("folder"), std::string::npos);
  EXPECT_EQ(*read_text_file(folder / "a"), "other");
  EXPECT_FALSE(read_text_file(folder / "a", 3).ok());
}

TEST(Interrupt, SetsTheFlag) {
  catch_interrupts();
  EXPECT_FALSE(interrupted());
  ::raise(SIGINT);
  EXPECT_TRUE(interrupted());
  clear_interrupt();
  EXPECT_FALSE(interrupted());
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
}

}  // namespace
}  // namespace retort
