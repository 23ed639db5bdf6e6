// What a subcommand is. One file per subcommand: src/cli/<name>.cc has a class and a maker; src/cli/list.cc names it.
//
// Layer: cli. Not thread-safe: one command runs, once.
//
//   class Inspect : public Command {
//    public:
//     void add_flags(CLI::App& app) override { add_model_flag(app, model_); }
//     Status run(const Context& context) override {
//       RETORT_RETURN_IF_ERROR(require_model(model_));
//       ...
//       if (context.json) print_json(document); else table.print();
//       return {};
//     }
//    private:
//     std::string model_;
//   };
//   std::unique_ptr<Command> make_inspect() { return std::make_unique<Inspect>(); }
//
// The frame (src/cli/main.cc) gives every command --json, -t/--threads, -s/--seed, --device and --help, turns unknown
// flags into one-line errors, prints a returned Error as `retort: error: ...` and chooses the exit code.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace retort::cli {

// The flags that every command has.
struct Context {
  bool json = false;              // one JSON document on standard output, nothing else there
  int threads = 0;                // 0: one per core
  std::optional<uint64_t> seed;   // unset: the command picks one and reports it
  std::string device = "cpu";     // cpu | cuda | cuda:N, already checked against what this build has
};

class Command {
 public:
  virtual ~Command() = default;
  virtual void add_flags(CLI::App& app) = 0;
  virtual Status run(const Context& context) = 0;
};

struct CommandEntry {
  const char* name;
  const char* summary;                    // one line of `retort --help`
  std::unique_ptr<Command> (*make)();
};

// In the order of `retort --help`. (list.cc)
const std::vector<CommandEntry>& command_list();

}  // namespace retort::cli
