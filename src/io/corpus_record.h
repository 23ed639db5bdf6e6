// A line of a .jsonl as a document: which kind it is says which keys it has.
//
// Layer: io. Plain values.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/corpus.h"

namespace retort {

// Fills `document` but for the text of a conversation. Errors begin with `where`.
Status read_record(const nlohmann::json& record, const std::string& where, CorpusDocument& document);

}  // namespace retort
