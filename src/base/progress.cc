#include "base/progress.h"

#include <algorithm>

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/format.h"

namespace retort {
namespace {

constexpr double kSecondsBetweenRedraws = 0.1;

int terminal_width(std::FILE* file) {
  winsize size{};
  if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

std::string bar(double share) {
  constexpr int kCells = 24;
  const int full = std::clamp(int(share * kCells), 0, kCells);
  return "[" + std::string(size_t(full), '#') + std::string(size_t(kCells - full), '.') + "]";
}

}  // namespace

Progress::Sink Progress::standard_error() { return {stderr, isatty(STDERR_FILENO) == 1, 10.0}; }

Progress::Progress(std::string label, int64_t total, Sink sink)
    : label_(std::move(label)), total_(std::max<int64_t>(0, total)), sink_(sink) {}

Progress::~Progress() {
  if (on_line_) std::fputc('\n', sink_.file);
}

std::string Progress::line(int64_t done, const std::string& note, int width) const {
  std::string text = label_ + "  ";
  const double elapsed = seconds();
  if (total_ > 0) {
    const double share = std::clamp(double(done) / double(total_), 0.0, 1.0);
    if (sink_.terminal) text += bar(share) + " ";
    text += format_count(done) + "/" + format_count(total_);
    if (done > 0 && done < total_) text += "  " + format_duration(elapsed * (1 - share) / share) + " left";
  } else {
    text += format_count(done);
  }
  if (!note.empty()) text += "  " + note;
  if (width > 0 && int(text.size()) >= width) text.resize(size_t(width - 1));
  return text;
}

void Progress::update(int64_t done, const std::string& note) {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  const double now = seconds();
  const double wait = sink_.terminal ? kSecondsBetweenRedraws : sink_.seconds_between_lines;
  if (now - last_drawn_ < wait) return;
  last_drawn_ = now;
  if (sink_.terminal) {
    std::fprintf(sink_.file, "\r\033[K%s", line(done, note, terminal_width(sink_.file)).c_str());
    on_line_ = true;
  } else {
    std::fprintf(sink_.file, "%s\n", line(done, note, 0).c_str());
  }
  std::fflush(sink_.file);
}

void Progress::message(const std::string& text) {
  std::lock_guard lock(mutex_);
  std::fprintf(sink_.file, "%s%s\n", on_line_ ? "\r\033[K" : "", text.c_str());
  std::fflush(sink_.file);
  on_line_ = false;
}

void Progress::finish(const std::string& note) {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  std::string text = label_ + "  ";
  text += note.empty() ? (total_ > 0 ? format_count(total_) + "  " : "") + format_duration(seconds()) : note;
  std::fprintf(sink_.file, "%s%s\n", on_line_ ? "\r\033[K" : "", text.c_str());
  std::fflush(sink_.file);
  on_line_ = false;
}

}  // namespace retort
