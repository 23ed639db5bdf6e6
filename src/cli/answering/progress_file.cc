#include "cli/answering/progress_file.h"

#include <filesystem>

#include "base/mapped_file.h"
#include "base/path.h"

namespace retort::cli {

using harness::Json;

Result<ProgressFile> ProgressFile::open(const std::string& path, const Json& settings) {
  ProgressFile file;
  file.path_ = path;
  std::string text;
  if (path_exists(path)) {
    RETORT_TRY(text, read_text_file(path));
    text.resize(text.rfind('\n') + 1);  // 0 without a whole line
  }
  size_t line = 0, kept = 0;
  for (size_t start = 0; start < text.size(); ++line) {
    const size_t end = text.find('\n', start);
    const Json value = Json::parse(text.begin() + ptrdiff_t(start), text.begin() + ptrdiff_t(end), nullptr, /*allow_exceptions=*/false);
    start = end + 1;
    if (line == 0 && value != settings) {
      return invalid(path, ": answers of a run with other settings; finish it with those, or delete the file");
    }
    if (line > 0) {
      const bool whole = value.is_object() && value.contains("question") && value["question"].is_number_unsigned() && value.contains("answer");
      if (!whole) return invalid(path, ":", line + 1, ": not an answer; delete the file to begin again");
      file.answers_[value["question"].get<size_t>()] = value["answer"];
    }
    kept = start;
  }
  std::error_code error;
  if (path_exists(path)) std::filesystem::resize_file(path, kept, error);
  file.out_.open(path, std::ios::binary | std::ios::app);
  if (kept == 0) file.out_ << settings.dump() << "\n" << std::flush;
  if (!file.out_) return io_error(path, ": cannot be written");
  return file;
}

Status ProgressFile::add(size_t question, const Json& answer) {
  answers_[question] = answer;
  out_ << Json{{"question", question}, {"answer", answer}}.dump() << "\n" << std::flush;
  return out_ ? Status() : Status(io_error(path_, ": cannot be written"));
}

void ProgressFile::remove() {
  out_.close();
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

}  // namespace retort::cli
