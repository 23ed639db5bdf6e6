// What the program retort-train does: `retort distill ...` and `retort pretrain ...` end up here.
//
// Layer: train. argv as typed after `retort`: argv[1] is "distill" or "pretrain". Returns the exit code, with the same
// meanings and the same one-line `retort: error: ...` as the program retort (src/cli/main.cc).
#pragma once

namespace retort::train {

int train_main(int argc, char** argv);

}  // namespace retort::train
