// The frame of the `retort` program: finds the command, parses its flags, runs it, reports its error.
//
// Layer: cli.
#pragma once

namespace retort::cli {

// What main() returns: 0, 1 our own bug, 2 what was given is wrong, 130 interrupted.
int cli_main(int argc, char** argv);

}  // namespace retort::cli
