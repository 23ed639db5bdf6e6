// Errors as values. Library code returns Result<T>; nothing reachable from a file, a recipe or a request may throw or abort.
//
// Layer: base. Thread-safe: values only.
//
//   Result<Config> read(...) {
//     RETORT_TRY(auto text, read_text(path));                    // returns the error, or binds the value
//     if (text.empty()) return invalid(path, ": empty; a JSON object is expected");
//     ...
//   }
#pragma once

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <variant>

namespace retort {

// Joins anything that streams: cat("layer ", 3, ": ", name).
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

enum class ErrorCode {
  kInvalidInput,  // what the user gave is wrong: exit code 2
  kIo,            // the machine refused: full disk, no permission: exit code 2
  kInterrupted,   // ctrl-C: exit code 130
  kInternal,      // our own bug or an unsupported state: exit code 1
};

// One line: what is wrong, where, and what would be right.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

template <class... Args>
Error invalid(const Args&... args) { return {ErrorCode::kInvalidInput, cat(args...)}; }
template <class... Args>
Error io_error(const Args&... args) { return {ErrorCode::kIo, cat(args...)}; }
template <class... Args>
Error internal_error(const Args&... args) { return {ErrorCode::kInternal, cat(args...)}; }

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}
  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};
using Status = Result<void>;

#define RETORT_CONCAT_(a, b) a##b
#define RETORT_CONCAT(a, b) RETORT_CONCAT_(a, b)
// RETORT_TRY(auto x, f());  or  RETORT_TRY(x, f());
#define RETORT_TRY(decl, expr) RETORT_TRY_(RETORT_CONCAT(result_, __LINE__), decl, expr)
#define RETORT_TRY_(tmp, decl, expr) \
  auto tmp = (expr);                 \
  if (!tmp.ok()) return tmp.error(); \
  decl = std::move(tmp).value()
// For a Status.
#define RETORT_RETURN_IF_ERROR(expr)                        \
  do {                                                      \
    if (auto status_ = (expr); !status_.ok()) return status_.error(); \
  } while (0)

// For our own bugs only.
#define RETORT_CHECK(cond, ...)                                                                    \
  do {                                                                                             \
    if (!(cond)) {                                                                                 \
      std::fprintf(stderr, "retort: bug: %s:%d: %s %s\n", __FILE__, __LINE__, #cond,               \
                   ::retort::cat(__VA_ARGS__).c_str());                                            \
      std::abort();                                                                                \
    }                                                                                              \
  } while (0)

}  // namespace retort
