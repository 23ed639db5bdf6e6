// Progress of something long, on standard error: one line that redraws itself on a terminal, a plain line every ten
// seconds elsewhere (log files, CI).
//
// Layer: base; used by both halves (no fmt, no torch). Thread-safe: update() may be called from any thread. Standard
// output is never touched.
//
//   Progress progress("distil: hidden", steps);
//   progress.update(step, "loss 0.123  512 tok/s");
//   progress.finish("done");
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

namespace retort {

class Progress {
 public:
  struct Sink {
    std::FILE* file = stderr;
    bool terminal = false;
    double seconds_between_lines = 10.0;
  };
  static Sink standard_error();

  // total 0: unknown length, only the count is shown.
  Progress(std::string label, int64_t total, Sink sink = standard_error());
  ~Progress();  // leaves the terminal on a fresh line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done, const std::string& note = "");
  // The last line, always printed. Without a note: the label, the count and the time taken.
  void finish(const std::string& note = "");
  // A message that must stay visible; the bar is redrawn below it.
  void message(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(int64_t done, const std::string& note, int width) const;
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  const std::string label_;
  const int64_t total_;
  const Sink sink_;
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  double last_drawn_ = -1e9;
  bool on_line_ = false;   // the cursor stands behind a bar
  bool finished_ = false;
};

}  // namespace retort
