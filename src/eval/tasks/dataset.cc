#include "eval/tasks/dataset.h"

#include <filesystem>

#include "io/corpus_stream.h"
#include "io/utf8.h"

namespace retort::harness {
namespace {

constexpr size_t kMostLineBytes = size_t{16} << 20, kMostBytes = size_t{2} << 30;
constexpr int kMostJsonDepth = 32;

Result<Row> parse_row(std::string_view line, std::string where) {
  if (const size_t bad = utf8::first_invalid(line); bad != utf8::kValid) return invalid(where, ": not valid UTF-8 at byte ", bad);
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMostJsonDepth;
    return !too_deep;
  };
  Json value = Json::parse(line, watch, /*allow_exceptions=*/false);
  if (too_deep) return invalid(where, ": JSON nested deeper than ", kMostJsonDepth, " levels");
  if (!value.is_object()) return invalid(where, ": not a JSON object");
  return Row(std::move(value), std::move(where));
}

// Lines of a stream, one at a time, of bounded length.
Result<std::vector<Row>> rows_of(ByteStream& bytes, const std::string& path) {
  std::vector<Row> out;
  std::string buffer;
  size_t line = 0, total = 0;
  bool more = true;
  const auto take = [&](std::string_view text) -> Status {
    ++line;
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) return {};
    RETORT_TRY(Row row, parse_row(text, cat(path, ":", line)));
    out.push_back(std::move(row));
    return {};
  };
  while (more) {
    const size_t before = buffer.size();
    RETORT_TRY(more, bytes.read(buffer));
    total += buffer.size() - before;
    if (total > kMostBytes) return invalid(path, ": more than ", kMostBytes, " bytes");
    size_t start = 0;
    for (size_t end; (end = buffer.find('\n', std::max(start, before))) != std::string::npos; start = end + 1) {
      RETORT_RETURN_IF_ERROR(take(std::string_view(buffer).substr(start, end - start)));
    }
    buffer.erase(0, start);
    if (buffer.size() > kMostLineBytes) return invalid(path, ":", line + 1, ": a line of more than ", kMostLineBytes, " bytes");
  }
  RETORT_RETURN_IF_ERROR(take(buffer));
  if (out.empty()) return invalid(path, ": empty: there is no row in it");
  return out;
}

}  // namespace

Result<std::vector<Row>> read_rows(std::string content, const std::string& name) {
  RETORT_TRY(const auto bytes, memory_byte_stream(std::move(content), name));
  return rows_of(*bytes, name);
}

Result<std::shared_ptr<const DataFolder::Rows>> DataFolder::rows(const Task& task, const char* split) {
  const std::string path = (std::filesystem::path(path_) / cat(task.file, "_", split, ".jsonl")).string();
  auto& known = read_[path];
  if (known) return known;
  for (const char* packing : {"", ".gz", ".zst"}) {
    std::error_code error;
    if (!std::filesystem::exists(path + packing, error)) continue;
    RETORT_TRY(const auto bytes, open_byte_stream(path + packing));
    RETORT_TRY(Rows found, rows_of(*bytes, path + packing));
    known = std::make_shared<const Rows>(std::move(found));
    return known;
  }
  return invalid(task.name, ": no ", path, " (or .jsonl.gz, .jsonl.zst): the ", split, " split of ", task.source,
                 " on the Hugging Face hub, a JSON object a line");
}

Result<std::vector<Document>> DataFolder::documents(const Task& task, const char* split) {
  RETORT_TRY(const auto found, rows(task, split));
  std::vector<Document> out;
  for (const Row& row : *found) {
    if (!task.subject.empty()) {
      RETORT_TRY(const std::string subject, row.text("subject"));
      if (subject != task.subject) continue;
    }
    RETORT_TRY(Document document, task.read(row));
    out.push_back(std::move(document));
  }
  if (out.empty()) return invalid(task.name, ": no row of subject '", task.subject, "' in the ", split, " split");
  return out;
}

}  // namespace retort::harness
