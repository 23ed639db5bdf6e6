// Ctrl-C as a question: long work asks interrupted() between steps, and leaves in good order.
//
// Layer: base. Thread-safe. A second ctrl-C ends the process at once.
#pragma once

#include "base/error.h"

namespace retort {

// From now on SIGINT and SIGTERM set a flag.
void catch_interrupts();

bool interrupted();

// What a command returns when it stopped because of it.
inline Error interrupted_error() { return {ErrorCode::kInterrupted, "interrupted"}; }

// For tests.
void clear_interrupt();

}  // namespace retort
