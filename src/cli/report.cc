#include <cstdio>

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/path.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/report/charts.h"
#include "cli/report/html.h"

namespace retort::cli {
namespace {

Status write_whole(const std::string& path, const std::string& text) {
  RETORT_TRY(auto file, AtomicFile::create(path, text.size()));
  RETORT_RETURN_IF_ERROR(file.write(text));
  return file.commit();
}

int columns_of_terminal() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 1000;
}

std::string markdown(const Cells& rows) {
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    out += "|";
    for (const auto& cell : rows[r]) out += " " + cell + " |";
    out += "\n";
    if (r > 0) continue;
    for (size_t c = 0; c < rows[r].size(); ++c) out += c == 0 ? "|---" : c == 1 ? "|---" : "|---:";
    out += "|\n";
  }
  return out;
}

class Report : public Command {
 public:
  void add_flags(CLI::App& app) override {
    app.add_option("RUN", folder_, "folder that `retort distill --out` wrote");
    app.add_option("--html", html_, "where the page goes (default: RUN/report.html)");
    app.add_option("--svg", svg_, "also write the overview charts as one picture");
    app.add_flag("--markdown", markdown_, "print the table as Markdown and nothing else");
  }

  Status run(const Context& context) override {
    if (folder_.empty()) return invalid("no run given: name the folder that `retort distill --out` wrote");
    folder_ = without_trailing_slashes(folder_);
    RETORT_TRY(auto run, read_run(folder_));
    const auto page = html_.empty() ? folder_ + "/report.html" : html_;
    RETORT_RETURN_IF_ERROR(write_whole(page, report_html(run)));
    if (!svg_.empty()) RETORT_RETURN_IF_ERROR(write_whole(svg_, overview_svg(run)));
    const auto rows = summary_table(run);
    const auto windows = window_table(run);
    if (context.json) print_json({{"report", page}, {"finished", run.finished}, {"table", rows}, {"windows", windows}});
    else if (markdown_) std::printf("%s\nEvery window starts with an empty state:\n\n%s", markdown(rows).c_str(), markdown(windows).c_str());
    else print(run, rows, windows, page);
    return {};
  }

 private:
  static void print(const RunResults& run, const Cells& rows, const Cells& windows, const std::string& page) {
    if (rows.size() > 1) {
      const auto one = table_text(rows);
      const bool fits = int(display_width(one.substr(0, one.find('\n')))) <= columns_of_terminal();
      std::fputs((fits ? one : table_text(quality_table(run)) + "\n" + table_text(speed_table(run))).c_str(), stdout);
    }
    if (!windows.empty()) std::printf("\nevery window starts with an empty state\n%s", table_text(windows).c_str());
    if (!run.prompt.empty()) std::printf("\nprompt: %s\n", run.prompt.c_str());
    const auto sample = [](const ModelResult& m) {
      if (!m.sample.empty()) std::printf("\n[%s]\n%s\n", m.name.c_str(), m.sample.c_str());
    };
    sample(run.teacher);
    for (const auto& s : run.students) sample(s);
    std::printf("\nreport: %s\n", page.c_str());
  }

  std::string folder_, html_, svg_;
  bool markdown_ = false;
};

}  // namespace

std::unique_ptr<Command> make_report() { return std::make_unique<Report>(); }

}  // namespace retort::cli
