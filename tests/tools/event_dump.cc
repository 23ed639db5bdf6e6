// Writes a TensorBoard event file for tests/oracles/tensorboard.py: event_dump FILE
#include <cstdio>

#include "train/tensorboard.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto writer = retort::train::EventWriter::open(argv[1], 0);
  if (!writer.ok()) return 1;
  for (int step = 1; step <= 300; ++step) {
    const double loss = 8.0 / step;
    if (!writer->scalars(step, 1700000000.25 + step, {{"align/loss", loss}, {"align/lr", 1e-3 * step}}).ok()) return 1;
  }
  return writer->flush().ok() ? 0 : 1;
}
