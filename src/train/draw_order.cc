#include "train/draw_order.h"

#include <algorithm>

#include "train/random.h"

namespace retort::train {

DrawOrder::DrawOrder(const std::vector<int>& sources, const std::vector<double>& weights, uint64_t seed) : seed_(seed) {
  std::vector<Source> all(std::max<size_t>(1, weights.size()));
  for (size_t s = 0; s < all.size(); ++s) {
    if (!weights.empty()) all[s].weight = weights[s];
    all[s].salt = s;
  }
  for (size_t i = 0; i < sources.size(); ++i) all[weights.empty() ? 0 : size_t(sources[i])].items.push_back(uint32_t(i));
  for (auto& source : all) {
    if (source.items.empty()) continue;
    shuffle(source);
    sources_.push_back(std::move(source));
  }
}

void DrawOrder::shuffle(Source& source) const {
  source.order = source.items;
  Random random{mix_seed(seed_, uint64_t(source.epoch), 0x5fu + source.salt)};
  for (size_t i = source.order.size(); i > 1; --i) std::swap(source.order[i - 1], source.order[random.below(i)]);
}

size_t DrawOrder::next() {
  const auto behind = std::min_element(sources_.begin(), sources_.end(), [](const Source& a, const Source& b) {
    return double(a.tokens) / a.weight < double(b.tokens) / b.weight;
  });
  last_ = size_t(behind - sources_.begin());
  if (behind->next == int64_t(behind->order.size())) {
    ++behind->epoch;
    behind->next = 0;
    shuffle(*behind);
  }
  return behind->order[size_t(behind->next++)];
}

// An item without tokens counts too: a source of such items must not be drawn for ever.
void DrawOrder::count(int64_t tokens) { sources_[last_].tokens += std::max<int64_t>(1, tokens); }

int64_t DrawOrder::epoch() const {
  int64_t most = 0;
  for (const auto& source : sources_) most = std::max(most, source.epoch);
  return most;
}

nlohmann::json DrawOrder::cursor() const {
  nlohmann::json out = nlohmann::json::array();
  for (const auto& source : sources_) out.push_back({source.epoch, source.next, source.tokens});
  return out;
}

Status DrawOrder::restore(const nlohmann::json& cursor) {
  const auto bad = [] { return invalid("the checkpoint's place in the training text makes no sense"); };
  if (!cursor.is_array() || cursor.size() != sources_.size()) return bad();
  for (size_t s = 0; s < sources_.size(); ++s) {
    const auto& saved = cursor[s];
    if (!saved.is_array() || saved.size() != 3) return bad();
    for (const auto& number : saved) {
      if (!number.is_number_integer() || number.get<int64_t>() < 0) return bad();
    }
    if (saved[1].get<int64_t>() > int64_t(sources_[s].items.size())) return bad();
    sources_[s].epoch = saved[0].get<int64_t>();
    sources_[s].next = saved[1].get<int64_t>();
    sources_[s].tokens = saved[2].get<int64_t>();
    shuffle(sources_[s]);
  }
  return {};
}

}  // namespace retort::train
