// A tokenizer as the `tokenizer.*` keys of a GGUF, from which llama.cpp and tokenizer_from_gguf make the same ids.
//
// Layer: io. Pure.
#pragma once

#include "io/gguf_writer.h"
#include "io/tokenizer.h"
#include "model/config.h"

namespace retort {

// One token per row of the embedding: rows past the tokenizer's size become unused "[PADn]". GGUF names a pre-tokenizer by a
// word and leaves the rest to the reader, so a tokenizer whose steps have no such word is refused.
Result<GgufVocabulary> gguf_vocabulary(const Tokenizer& tokenizer, int vocab_size);

Status add_tokenizer(GgufMetadata& metadata, const Tokenizer& tokenizer, const ModelConfig& config);

}  // namespace retort
