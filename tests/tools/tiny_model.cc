// Writes a tiny random teacher and a corpus for it: tiny_model FOLDER  ->  FOLDER/teacher/, FOLDER/second/ (another
// one with the same tokens), FOLDER/corpus.jsonl, FOLDER/other.jsonl
#include "support/tiny_model.h"

#include <cstdio>
#include <filesystem>

#include "base/atomic_file.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string folder = argv[1];
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  auto status = retort::test::write_tiny_model(folder + "/teacher");
  if (status.ok()) status = retort::test::write_tiny_model(folder + "/second", 2);
  if (status.ok()) status = retort::write_text_file(folder + "/corpus.jsonl", retort::test::tiny_corpus());
  if (status.ok()) status = retort::write_text_file(folder + "/other.jsonl", retort::test::tiny_corpus(9));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().message.c_str());
  return status.ok() ? 0 : 1;
}
