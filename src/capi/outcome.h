// Where exceptions and wrong arguments end: what every function of the C interface is wrapped in, and its checks.
//
// Layer: capi. Thread-safe: the text of an error belongs to the thread that made it.
//
//   retort_status retort_session_reset(retort_session* session) {
//     return guarded([&]() -> Outcome {
//       RETORT_RETURN_IF_ERROR(not_null(session, "session"));
//       ...
//       return {};
//     });
//   }
#pragma once

#include <climits>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <stdexcept>

#include <retort/retort.h>

#include "base/error.h"

namespace retort::capi {

// Remembers the message for retort_error(), as one line, and gives the status back. Allocates nothing.
retort_status report(retort_status status, const char* message) noexcept;
retort_status report(const Error& error) noexcept;
const char* last_error() noexcept;

// What the macros of base/error.h can return.
struct Outcome {
  Outcome() = default;
  Outcome(retort_status of) : status(of) {}
  Outcome(const Error& error) : status(report(error)) {}
  Outcome(const Status& result) : status(result.ok() ? RETORT_OK : report(result.error())) {}
  retort_status status = RETORT_OK;
};

template <class Fn>
retort_status guarded(Fn&& fn) noexcept {
  try {
    return fn().status;
  } catch (const std::bad_alloc&) {
    return report(RETORT_NO_MEMORY, "out of memory");
  } catch (const std::length_error&) {  // a vector that could not exist
    return report(RETORT_NO_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return report(RETORT_INTERNAL, error.what());
  } catch (...) {
    return report(RETORT_INTERNAL, "unexpected exception");
  }
}

// --- arguments ---

inline Status not_null(const void* pointer, const char* name) {
  if (!pointer) return invalid(name, " is NULL");
  return {};
}

inline Status check_count(int64_t count, const char* name) {
  if (count < 0 || count > INT_MAX) return invalid(name, " is ", count, "; expected 0 to ", INT_MAX);
  return {};
}

template <class T>
Result<std::span<const T>> array_of(const T* values, int64_t count, const char* name) {
  RETORT_RETURN_IF_ERROR(check_count(count, cat("the count of ", name).c_str()));
  if (count > 0) RETORT_RETURN_IF_ERROR(not_null(values, name));
  return std::span<const T>(values, size_t(count));
}

// A caller's buffer, filled; see the head of retort.h.
template <class T>
Outcome fill(std::span<const T> values, T* buffer, int64_t capacity, int64_t* count) {
  RETORT_RETURN_IF_ERROR(check_count(capacity, "the capacity"));
  *count = int64_t(values.size());
  if (capacity == 0) return {};
  RETORT_RETURN_IF_ERROR(not_null(buffer, "the buffer"));
  if (capacity < *count)
    return report(RETORT_TOO_SMALL, cat("the buffer has room for ", capacity, ", ", *count, " are needed").c_str());
  if (!values.empty()) std::memcpy(buffer, values.data(), values.size_bytes());
  return {};
}

// A struct of options from a program that may be built against another version of the header. All that there is so far
// is version 1, so nothing may be shorter.
template <class T>
Result<T> options_of(const T* given, const T& defaults, const char* name, const char* macro) {
  constexpr size_t kMost = 4096;
  if (!given) return defaults;
  const size_t size = given->size;
  if (size < sizeof(T) || size > kMost)
    return invalid(name, ".size is ", size, "; expected ", sizeof(T), ": start from ", macro);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0)
      return invalid(name, ": byte ", i, " is set, this library (ABI ", RETORT_ABI_VERSION, ") knows ", sizeof(T));
  }
  T options;
  std::memcpy(&options, given, sizeof(T));
  return options;
}

}  // namespace retort::capi
