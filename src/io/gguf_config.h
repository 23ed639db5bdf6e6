// GGUF metadata -> ModelConfig, for the architectures llama (also Mistral, SmolLM2), qwen2 and qwen3.
//
// Layer: io. Pure.
#pragma once

#include "io/gguf.h"
#include "model/config.h"

namespace retort {

Result<ModelConfig> config_from_gguf(const GgufFile& file);

// True when the file stores attn_q and attn_k with every head's rows interleaved for rotation of neighbours: row 2j + h
// holds row j + h * head_dim / 2 of the half-split layout (h = 0, 1). llama does; qwen does not.
bool gguf_interleaves_rope(const std::string& family);

}  // namespace retort
