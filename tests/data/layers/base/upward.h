// An include that must be refused: base stands below io. Read by the test layers.an_upward_include_is_refused.
#include "io/gguf.h"
