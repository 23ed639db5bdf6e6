// Tokenizers from the places where models keep them.
//
// Layer: io. Thread-safe.
#pragma once

#include <string>

#include "io/gguf.h"
#include "io/model_files.h"
#include "io/tokenizer.h"

namespace retort {

Result<Tokenizer> tokenizer_from_gguf(const GgufFile& file);
// A GGUF file, a folder with tokenizer.json, or a tokenizer.json itself.
Result<Tokenizer> load_tokenizer(const std::string& path);
// A model's own: it fits the embedding.
Result<Tokenizer> open_tokenizer(const ModelFiles& files);

}  // namespace retort
