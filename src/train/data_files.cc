#include "train/data_files.h"

#include <algorithm>

#include "base/mapped_file.h"
#include "base/sha256.h"
#include "io/corpus.h"

namespace retort::train {

Result<std::vector<DataFile>> data_files(const Recipe& recipe) {
  std::vector<std::string> sources;
  const auto add = [&](const std::vector<DataSource>& named) {
    for (const auto& source : named) {
      if (std::find(sources.begin(), sources.end(), source.file) == sources.end()) sources.push_back(source.file);
    }
  };
  add(recipe.data.train);
  for (const auto& stage : recipe.stages) add(stage.data);
  std::vector<DataFile> out;
  for (const auto& source : sources) {
    RETORT_TRY(const auto files, corpus_files({source}));
    for (const auto& file : files) {
      RETORT_TRY(const auto mapped, MappedFile::open(file));
      const auto bytes = mapped->bytes();
      out.push_back({file, int64_t(bytes.size()), sha256_hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()})});
    }
  }
  return out;
}

nlohmann::json data_files_json(const std::vector<DataFile>& files) {
  nlohmann::json out = nlohmann::json::array();
  for (const auto& f : files) out.push_back({{"file", f.file}, {"bytes", f.bytes}, {"sha256", f.sha256}});
  return out;
}

std::string data_difference(const nlohmann::json& before, const std::vector<DataFile>& now) {
  if (!before.is_array()) return "";
  const auto text = [](const nlohmann::json& item, const char* key) {
    const bool has = item.is_object() && item.contains(key) && item[key].is_string();
    return has ? item[key].get<std::string>() : "?";
  };
  for (size_t i = 0; i < std::min(before.size(), now.size()); ++i) {
    const std::string was = text(before[i], "sha256");
    if (was == now[i].sha256) continue;
    return cat(now[i].file, ": its text is not the one this run began with (SHA-256 ", now[i].sha256.substr(0, 12), ", was ", was.substr(0, 12), ")");
  }
  if (before.size() < now.size()) return cat(now[before.size()].file, ": not among the files this run began with");
  if (before.size() > now.size()) return cat(text(before[now.size()], "file"), ": missing; this run began with its text");
  return "";
}

}  // namespace retort::train
