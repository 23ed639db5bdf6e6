// Any text as what a written folder or GGUF says about itself (`retort_export`): read or refused. What is read has a plan whose pieces
// fill its tensors, and asks for them by name.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "io/export/targets.h"
#include "io/json_fields.h"

using namespace retort;

namespace {

// Has nothing.
class Empty : public WeightStore {
 public:
  bool has(const std::string&) const override { return false; }
  Result<TensorView> tensor(const std::string& name) const override { return invalid("no tensor ", name); }
  std::vector<std::string> names() const override { return {}; }
  const std::string& path() const override { return path_; }

 private:
  std::string path_ = "empty";
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto said = parse_json_object("note", std::string(reinterpret_cast<const char*>(data), size));
  if (!said.ok()) return 0;
  auto exported = read_exported(*said, "note");
  if (!exported.ok() || exported->config.layers > 64) return 0;
  if (exported_weights(std::make_shared<Empty>(), std::move(exported->plan), exported->config).ok()) std::abort();
  return 0;
}
