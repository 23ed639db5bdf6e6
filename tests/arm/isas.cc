// Prints the instruction sets of the processor it runs on.
#include <cstdio>

#include "base/cpu.h"

int main() {
  for (const retort::Isa isa : retort::available_isas()) std::printf("%s ", retort::isa_name(isa));
}
