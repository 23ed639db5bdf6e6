// Any text as config.json, and after a zero byte as generation_config.json: read or refused. What is read survives
// being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "io/hf_config.h"
#include "io/json_fields.h"
#include "mixers/list.h"

using namespace retort;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t zero = text.find('\0');
  const auto root = parse_json_object("config.json", text.substr(0, zero));
  if (!root.ok()) return 0;
  nlohmann::json generation;
  if (zero != std::string::npos) {
    auto second = parse_json_object("generation_config.json", text.substr(zero + 1));
    if (second.ok()) generation = *second;
  }
  const auto config = config_from_json(*root, "config.json", generation);
  if (!config.ok() || config->layers > 64) return 0;
  const auto again = config_from_json(config_to_json(*config), "again");
  if (!again.ok() || fingerprint(*again) != fingerprint(*config) || again->eos_ids != config->eos_ids) std::abort();
  return 0;
}
