// Drives a tokenizer for the oracle tests: records in on standard input, records out on standard output.
//
//   tokenizer_tool MODEL encode|encode-plain|decode|decode-skip|bytes|save FOLDER
//
// A record is a little-endian uint32 size and that many bytes of text, or that many int32 ids. `encode-plain` adds no
// special tokens and parses none. `bytes` gives the bytes of ids joined through a TextStream.
#include <cstdio>
#include <fstream>
#include <iostream>

#include "io/tokenizer_files.h"

namespace {

using retort::Tokenizer;

template <class Container>
bool read_record(Container& out) {
  uint32_t n = 0;
  if (std::fread(&n, 4, 1, stdin) != 1) return false;
  out.resize(n);
  return n == 0 || std::fread(out.data(), sizeof(out[0]), n, stdin) == n;
}

template <class Container>
void write_record(const Container& in) {
  const uint32_t n = uint32_t(in.size());
  std::fwrite(&n, 4, 1, stdout);
  std::fwrite(in.data(), sizeof(in[0]), n, stdout);
}

int fail(const std::string& message) {
  std::fprintf(stderr, "tokenizer_tool: %s\n", message.c_str());
  return 2;
}

int encode(const Tokenizer& tokenizer, retort::EncodeOptions options) {
  for (std::string text; read_record(text);) {
    const auto ids = tokenizer.encode(text, options);
    if (!ids.ok()) return fail(ids.error().message);
    write_record(*ids);
  }
  return 0;
}

int decode(const Tokenizer& tokenizer, const std::string& mode) {
  for (std::vector<int32_t> ids; read_record(ids);) {
    if (mode != "bytes") {
      write_record(tokenizer.decode(ids, mode == "decode-skip"));
      continue;
    }
    retort::TextStream stream;
    std::string text;
    for (int32_t id : ids) text += stream.push(tokenizer.token_bytes(id));
    write_record(text + stream.finish());
  }
  return 0;
}

int save(const Tokenizer& tokenizer, const std::string& folder) {
  const auto files = tokenizer.to_json();
  std::ofstream(folder + "/tokenizer.json", std::ios::binary) << files.tokenizer_json;
  std::ofstream(folder + "/tokenizer_config.json", std::ios::binary) << files.tokenizer_config_json;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return fail("usage: tokenizer_tool MODEL encode|encode-plain|decode|decode-skip|bytes|save FOLDER");
  const auto tokenizer = retort::load_tokenizer(argv[1]);
  if (!tokenizer.ok()) return fail(tokenizer.error().message);
  const std::string mode = argv[2];
  if (mode == "encode") return encode(*tokenizer, {});
  if (mode == "encode-plain") return encode(*tokenizer, {.add_special = false, .parse_special = false});
  if (mode == "save" && argc == 4) return save(*tokenizer, argv[3]);
  return decode(*tokenizer, mode);
}
