#include "cli/main.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>

#include "base/suggest.h"
#include "cli/command.h"
#include "cli/flags.h"

namespace retort::cli {
namespace {

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidInput:
    case ErrorCode::kIo: return 2;
    case ErrorCode::kInterrupted: return 130;
    case ErrorCode::kInternal: return 1;
  }
  return 1;
}

int report(const Error& error) {
  std::fflush(stdout);
  std::string line = error.message;
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';  // names come from files and arguments; the error stays one line
  }
  std::fprintf(stderr, "retort: error: %s\n", line.c_str());
  return exit_code(error.code);
}

void print_help() {
  std::puts("retort: turns a softmax-attention language model into a linear-recurrent one and runs it\n");
  std::puts("usage: retort COMMAND [MODEL] [flags]        retort COMMAND --help shows a command's flags\n");
  for (const auto& entry : command_list()) std::printf("  %-12s %s\n", entry.name, entry.summary);
  std::puts("\n  --version    print the version\n  --help       print this");
  std::puts("\nMODEL is a Hugging Face folder or a .gguf file, everywhere. Every command takes --json, --threads, --seed, --device.");
}

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  for (const auto& entry : command_list()) names.emplace_back(entry.name);
  return names;
}

Status check_device(const std::string& device) {
  if (device == "cpu") return {};
  const bool cuda = device == "cuda" || (device.rfind("cuda:", 0) == 0 && device.size() > 5 &&
                                         device.find_first_not_of("0123456789", 5) == std::string::npos);
  if (cuda) return invalid("--device ", device, ": this build has no CUDA kernels; use --device cpu");
  return invalid("--device ", device, ": expected cpu, cuda or cuda:N");
}

// The first leftover that looks like a flag is what the user got wrong; CLI11's own message may name a later one.
Error parse_error(const CLI::App& app, const std::string& command, const std::string& fallback) {
  std::vector<std::string> known;
  for (const auto* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) known.push_back("--" + name);
    for (const auto& name : option->get_snames()) known.push_back("-" + name);
  }
  const auto rest = app.remaining();
  for (const auto& argument : rest) {
    if (argument.size() < 2 || argument[0] != '-') continue;
    const auto flag = argument.substr(0, argument.find('='));
    const auto near = nearest_name(flag, known);
    return invalid(command, ": unknown flag '", flag, "'",
                   near.empty() ? cat("; `retort ", command, " --help` lists them") : cat("; did you mean '", near, "'?"));
  }
  if (!rest.empty()) return invalid(command, ": unexpected argument '", rest.front(), "'");
  return invalid(command, ": ", fallback);
}

// CLI11 wraps a negative number around and cuts one that is too large.
CLI::Validator seed_check() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        const bool digits = !text.empty() && text.size() <= 19 && text.find_first_not_of("0123456789") == std::string::npos;
        return digits ? "" : "'" + text + "' is no whole number from 0 to 9999999999999999999";
      },
      "", "seed");
}

Status run_command(const CommandEntry& entry, int argc, char** argv) {
  auto command = entry.make();
  Context context;
  CLI::App app(entry.summary, cat("retort ", entry.name));
  app.allow_extras();
  command->add_flags(app);
  app.add_flag("--json", context.json, "print one JSON document on standard output");
  app.add_option("-t,--threads", context.threads, "threads; 0 means one per core")->check(CLI::Range(0, 4096));
  app.add_option("-s,--seed", context.seed, "random seed")->check(seed_check());
  app.add_option("--device", context.device, "cpu, cuda or cuda:N")->capture_default_str();
  auto arguments = expand_short_forms({argv + 2, argv + argc});
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // CLI11's order
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return {};
  } catch (const CLI::ParseError& error) {
    return parse_error(app, entry.name, error.what());
  }
  if (app.remaining_size() > 0) return parse_error(app, entry.name, "");
  RETORT_RETURN_IF_ERROR(check_device(context.device));
  return command->run(context);
}

Status dispatch(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h" || name == "help") {
    print_help();
    return {};
  }
  if (name == "--version") {
    std::puts("retort " RETORT_VERSION);
    return {};
  }
  for (const auto& entry : command_list()) {
    if (name != entry.name) continue;
    return run_command(entry, argc, argv);
  }
  const char* kind = name[0] == '-' ? "unknown flag '" : "unknown command '";
  auto known = command_names();
  known.insert(known.end(), {"--help", "--version"});
  return invalid(kind, name, "'", suggestion(name, known));
}

Status flush_output() {
  errno = 0;
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return {};
  return io_error("cannot write to standard output: ", std::strerror(errno ? errno : EIO));
}

}  // namespace

int cli_main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error like a full disk
  std::signal(SIGPIPE, SIG_DFL);  // `retort ... | head` ends quietly, also below parents that ignore the signal
  try {
    if (auto status = dispatch(argc, argv); !status.ok()) return report(status.error());
    if (auto status = flush_output(); !status.ok()) return report(status.error());
    return 0;
  } catch (const std::bad_alloc&) {
    return report(io_error("out of memory"));
  } catch (const std::exception& error) {
    return report(internal_error("unexpected: ", error.what()));
  }
}

}  // namespace retort::cli
