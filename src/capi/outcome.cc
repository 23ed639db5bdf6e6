#include "capi/outcome.h"

namespace retort::capi {
namespace {

thread_local char error_text[1024] = "";

retort_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidInput: return RETORT_INVALID;
    case ErrorCode::kIo: return RETORT_IO;
    case ErrorCode::kInterrupted: return RETORT_INTERRUPTED;
    case ErrorCode::kInternal: return RETORT_INTERNAL;
  }
  return RETORT_INTERNAL;
}

}  // namespace

retort_status report(retort_status status, const char* message) noexcept {
  std::snprintf(error_text, sizeof error_text, "%s", message);
  for (char* c = error_text; *c; ++c) {
    if (*c == '\n' || *c == '\r') *c = ' ';  // names come from files and arguments; the error stays one line
  }
  return status;
}

retort_status report(const Error& error) noexcept { return report(status_of(error.code), error.message.c_str()); }

const char* last_error() noexcept { return error_text; }

}  // namespace retort::capi

extern "C" {

const char* retort_version(void) { return RETORT_VERSION; }
int retort_abi_version(void) { return RETORT_ABI_VERSION; }
const char* retort_error(void) { return retort::capi::last_error(); }

}  // extern "C"
