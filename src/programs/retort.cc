#include "cli/main.h"

int main(int argc, char** argv) { return retort::cli::cli_main(argc, argv); }
