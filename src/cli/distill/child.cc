#include "cli/distill/child.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "base/interrupt.h"
#include "base/path.h"

namespace retort::cli {
namespace {

std::vector<char*> argv_of(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  return argv;
}

}  // namespace

Result<std::string> train_program() {
  std::error_code failed;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (failed) return io_error("/proc/self/exe: ", failed.message());
  const auto program = self.parent_path() / "retort-train";
  if (!path_exists(program.string())) {
    return invalid("distill needs retort-train, which was not built: expected ", program.string(),
                   "; configure without -DRETORT_TRAIN=OFF (./quickstart does)");
  }
  return program.string();
}

Result<int> run_child(const std::string& program, const std::vector<std::string>& arguments) {
  const auto argv = argv_of(arguments);
  const pid_t parent = ::getpid(), child = ::fork();
  if (child < 0) return io_error("cannot start ", program, ": ", std::strerror(errno));
  if (child == 0) {
    ::setpgid(0, 0);  // the terminal's ctrl-C reaches only the parent
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(130);
    if (const int nowhere = ::open("/dev/null", O_WRONLY); nowhere >= 0) ::dup2(nowhere, STDOUT_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  ::setpgid(child, child);
  bool told = false;
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (ended < 0 && errno != EINTR) return io_error("cannot wait for ", program, ": ", std::strerror(errno));
    if (interrupted() && !told) {
      told = true;
      ::kill(child, SIGINT);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Status become(const std::string& program, const std::vector<std::string>& arguments) {
  const auto argv = argv_of(arguments);
  ::execv(program.c_str(), argv.data());
  return io_error(program, ": ", std::strerror(errno));
}

}  // namespace retort::cli
