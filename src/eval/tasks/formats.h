// Rows of each dataset, in the schema that they have on the Hugging Face hub, as documents.
//
// Layer: eval. Thread-safe: pure functions.
#pragma once

#include "eval/tasks/task.h"

namespace retort::harness {

Result<Document> read_arc(Row row);
Result<Document> read_hellaswag(Row row);
Result<Document> read_lambada(Row row);
Result<Document> read_mmlu(Row row);
Result<Document> read_openbookqa(Row row);
Result<Document> read_piqa(Row row);
Result<Document> read_pubmedqa(Row row);
Result<Document> read_race(Row row);
Result<Document> read_truthfulqa_mc1(Row row);
Result<Document> read_truthfulqa_mc2(Row row);
Result<Document> read_wikitext(Row row);
Result<Document> read_winogrande(Row row);

}  // namespace retort::harness
