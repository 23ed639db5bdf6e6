#include "cli/output.h"

#include <algorithm>
#include <cstdio>

namespace retort::cli {
namespace {

bool looks_numeric(const std::string& cell) {
  if (cell.empty() || cell == "-") return true;
  return (cell[0] >= '0' && cell[0] <= '9') || (cell.size() > 1 && cell[0] == '-' && cell[1] >= '0' && cell[1] <= '9');
}

}  // namespace

void print_json(const nlohmann::ordered_json& document) {
  const auto text = document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  Table table(rows[0]);
  for (size_t r = 1; r < rows.size(); ++r) table.row(rows[r]);
  return table.text();
}

size_t display_width(std::string_view text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string Table::text() const {
  std::vector<size_t> width(head_.size());
  std::vector<bool> right(head_.size(), !rows_.empty());
  for (size_t c = 0; c < head_.size(); ++c) {
    width[c] = display_width(head_[c]);
    for (const auto& row : rows_) {
      if (c >= row.size()) continue;
      width[c] = std::max(width[c], display_width(row[c]));
      right[c] = right[c] && looks_numeric(row[c]);
    }
  }
  std::string out;
  const auto put = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t c = 0; c < head_.size(); ++c) {
      const std::string cell = c < cells.size() ? cells[c] : "";
      const std::string pad(width[c] - display_width(cell), ' ');
      line += (c ? "  " : "") + (right[c] ? pad + cell : cell + pad);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  put(head_);
  std::vector<std::string> rule;
  for (size_t w : width) rule.emplace_back(w, '-');
  put(rule);
  for (const auto& row : rows_) put(row);
  return out;
}

void Table::print() const { std::fputs(text().c_str(), stdout); }

}  // namespace retort::cli
