#include "base/interrupt.h"

#include <csignal>

namespace retort {
namespace {

volatile std::sig_atomic_t flag = 0;

void on_signal(int) { flag = 1; }

}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags =
      static_cast<int>(SA_RESTART | SA_RESETHAND);  // the second signal meets the default: the process ends
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return flag != 0; }

void clear_interrupt() { flag = 0; }

}  // namespace retort
