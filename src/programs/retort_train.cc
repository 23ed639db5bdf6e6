#include "train/train_main.h"

int main(int argc, char** argv) { return retort::train::train_main(argc, argv); }
