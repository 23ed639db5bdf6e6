#include "runtime/prefix_cache.h"

#include <algorithm>

namespace retort {
namespace {

int64_t allocated_bytes(const Sequence& state) {
  int64_t bytes = int64_t(state.fixed_numbers().size() * sizeof(float));
  for (const KvCache& cache : state.caches()) cache.each_chunk([&](const void*, int64_t size) { bytes += size; });
  return bytes;
}

int64_t common_length(std::span<const int> a, std::span<const int> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

constexpr int64_t kTokenBytes = int64_t(sizeof(int));

}  // namespace

PrefixCache::Place PrefixCache::walk(std::span<const int> tokens, Node** deepest_state) {
  Place place{&root_, 0, 0};
  for (Node* node = &root_;;) {
    const auto rest = tokens.subspan(size_t(place.length));
    const auto child = rest.empty() ? node->children.end() : node->children.find(rest.front());
    if (child == node->children.end()) return place;
    node = child->second.get();
    const int64_t common = common_length(node->edge, rest);
    place = {node, size_t(common), place.length + common};
    if (place.inside < node->edge.size()) return place;
    if (node->state) *deepest_state = node;
  }
}

std::optional<Sequence> PrefixCache::find(std::span<const int> tokens, int64_t longer_than, const CutTo& cut_to) {
  ++stats_.lookups;
  if (tokens.empty()) return {};
  Node* found = nullptr;
  const Place place = walk(tokens.first(tokens.size() - 1), &found);
  int64_t length = found ? found->state->position() : 0;
  if (place.length > length) {  // whoever goes on from here began with these tokens
    Node* beyond = place.node;
    while (!beyond->state) beyond = beyond->children.begin()->second.get();  // every leaf has a state
    const bool cuts = beyond->state->layout().fixed_numbers() == 0;
    const int64_t cut = cuts && cut_to ? cut_to(place.length) : place.length;
    if (cuts && cut > length) found = beyond, length = cut;
  }
  if (length <= longer_than) return {};
  ++stats_.hits;
  used_.splice(used_.begin(), used_, found->used);
  std::optional<Sequence> state = found->state;
  RETORT_CHECK(state->cut(length), "a state of ", state->position(), " tokens was taken for one of ", length);
  return state;
}

PrefixCache::Node* PrefixCache::split(Node* node, size_t inside) {
  if (inside == node->edge.size()) return node;
  auto& place = node->parent->children[node->edge.front()];
  auto upper = std::make_unique<Node>();
  upper->edge.assign(node->edge.begin(), node->edge.begin() + ptrdiff_t(inside));
  upper->parent = node->parent;
  node->edge.erase(node->edge.begin(), node->edge.begin() + ptrdiff_t(inside));
  node->parent = upper.get();
  upper->children[node->edge.front()] = std::move(place);
  place = std::move(upper);
  return place.get();
}

PrefixCache::Node* PrefixCache::add(Node* parent, std::span<const int> edge) {
  auto node = std::make_unique<Node>();
  node->edge.assign(edge.begin(), edge.end());
  node->parent = parent;
  stats_.bytes += int64_t(edge.size()) * kTokenBytes;
  return (parent->children[edge.front()] = std::move(node)).get();
}

void PrefixCache::count_bytes(const Sequence& state, int change) {
  stats_.bytes += change * int64_t(state.fixed_numbers().size() * sizeof(float));
  for (const KvCache& cache : state.caches()) {
    cache.each_chunk([&](const void* chunk, int64_t size) {
      int64_t& uses = chunks_[chunk];
      if (std::max(uses, uses + change) == 1) stats_.bytes += change * size;  // the first to come or the last to go
      uses += change;
      if (uses == 0) chunks_.erase(chunk);
    });
  }
}

bool PrefixCache::put(std::span<const int> tokens, const Sequence& state) {
  RETORT_CHECK(state.position() == int64_t(tokens.size()), "a state of ", state.position(), " tokens for ", tokens.size());
  if (tokens.empty()) return true;
  if (allocated_bytes(state) + int64_t(tokens.size()) * kTokenBytes > budget_) {
    ++stats_.refused;
    return false;
  }
  Node* known = nullptr;
  const Place place = walk(tokens, &known);
  Node* node = split(place.node, place.inside);
  if (place.length < int64_t(tokens.size())) node = add(node, tokens.subspan(size_t(place.length)));
  if (node->state) {
    used_.splice(used_.begin(), used_, node->used);
    return true;
  }
  node->state = state;
  used_.push_front(node);
  node->used = used_.begin();
  ++stats_.states;
  count_bytes(state, 1);
  while (stats_.bytes > budget_ && used_.back() != node) evict(used_.back());
  return true;
}

void PrefixCache::evict(Node* node) {
  count_bytes(*node->state, -1);
  node->state.reset();
  used_.erase(node->used);
  --stats_.states;
  ++stats_.evicted;
  while (node != &root_ && !node->state && node->children.empty()) {
    Node* parent = node->parent;
    stats_.bytes -= int64_t(node->edge.size()) * kTokenBytes;
    parent->children.erase(node->edge.front());
    node = parent;
  }
}

Result<Fed> feed_with_cache(Session& session, PrefixCache& cache, std::span<const int> tokens, int64_t every,
                            const std::function<bool(int64_t)>& progress) {
  if (tokens.empty()) return invalid("the prompt has no tokens");
  const auto consumed = std::span(session.tokens()).first(size_t(session.sequence().position()));
  const int64_t common = std::min(common_length(consumed, tokens), int64_t(tokens.size()) - 1);
  auto known = cache.find(tokens);
  if ((known && known->position() > common) || !session.cut(common)) {
    if (known) session.assume(tokens.first(size_t(known->position())), std::move(*known));
    else session.reset();
  }
  Fed done{session.sequence().position(), 0};
  while (session.sequence().position() < int64_t(tokens.size())) {
    const int64_t from = session.sequence().position(), to = std::min((from / every + 1) * every, int64_t(tokens.size()));
    session.commit(tokens.subspan(size_t(from), size_t(to - from)));
    RETORT_RETURN_IF_ERROR(session.consume());
    cache.put(tokens.first(size_t(to)), session.sequence());
    done.fed += to - from;
    if (progress && to < int64_t(tokens.size()) && !progress(done.fed)) return Error{ErrorCode::kInterrupted, "interrupted"};
  }
  return done;
}

}  // namespace retort
