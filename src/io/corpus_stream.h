// Bytes of a file, decompressed on the way when the file is gzip or zstd. Its first bytes tell, not its name; but a file called
// .gz or .zst whose first bytes are neither is an error, not text.
//
// Layer: io. Belongs to one thread.
#pragma once

#include <memory>
#include <string>

#include "base/error.h"

namespace retort {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Appends some bytes to `out`; false at the end.
  virtual Result<bool> read(std::string& out) = 0;
};

Result<std::unique_ptr<ByteStream>> open_byte_stream(const std::string& path);
Result<std::unique_ptr<ByteStream>> memory_byte_stream(std::string content, const std::string& name);

}  // namespace retort
