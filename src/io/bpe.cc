#include "io/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>

#include "io/utf8.h"

namespace retort {
namespace {

constexpr size_t kCachedWordMax = 64;

uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  return x;
}

uint64_t hash_of(std::string_view s) {
  uint64_t h = 0x9e3779b97f4a7c15ull ^ s.size();
  size_t i = 0;
  for (; i + 8 <= s.size(); i += 8) {
    uint64_t w;
    std::memcpy(&w, s.data() + i, 8);
    h = mix(h ^ w);
  }
  uint64_t w = 0;
  if (i < s.size()) std::memcpy(&w, s.data() + i, s.size() - i);
  return mix(h ^ w);
}

// GPT-2: printable Latin-1 bytes stand for themselves, the others for U+0100 and up, in order.
struct ByteAlphabet {
  std::array<char32_t, 256> to_char{};
  std::array<int16_t, 512> to_byte{};
  ByteAlphabet() {
    to_byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      to_char[size_t(b)] = printable ? char32_t(b) : next++;
      to_byte[to_char[size_t(b)]] = int16_t(b);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

bool starts_with_mark(std::string_view s) { return s.substr(0, 3) == kSpaceMark; }
bool ends_with_mark(std::string_view s) { return s.size() >= 3 && s.substr(s.size() - 3) == kSpaceMark; }

}  // namespace

std::string byte_level_encode(std::string_view bytes) {
  std::string out;
  for (char b : bytes) utf8::append(out, byte_alphabet().to_char[uint8_t(b)]);
  return out;
}

bool byte_level_decode(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = utf8::next(text, pos);
    if (c >= 512 || byte_alphabet().to_byte[c] < 0) return false;
    bytes += char(byte_alphabet().to_byte[c]);
  }
  return true;
}

StringIds::StringIds(size_t expected) : slots_(std::bit_ceil(expected * 2 + 2)), mask_(slots_.size() - 1) {}

bool StringIds::insert(std::string_view key, uint32_t id) {
  size_t i = hash_of(key) & mask_;
  for (; slots_[i].id != kNone; i = (i + 1) & mask_) {
    if (slots_[i].key == key) return false;
  }
  slots_[i] = {key, id};
  return true;
}

uint32_t StringIds::find(std::string_view key) const {
  for (size_t i = hash_of(key) & mask_; slots_[i].id != kNone; i = (i + 1) & mask_) {
    if (slots_[i].key == key) return slots_[i].id;
  }
  return kNone;
}

WordCache::WordCache() { clear(); }

void WordCache::clear() {
  slots_.assign(1 << 16, {});
  keys_.clear();
  ids_.clear();
  used_ = 0;
}

bool WordCache::append(std::string_view word, std::vector<int32_t>& out) const {
  const uint64_t hash = hash_of(word) | 1;
  for (size_t i = hash >> 40 & (slots_.size() - 1); slots_[i].hash != 0; i = (i + 1) & (slots_.size() - 1)) {
    const Slot& s = slots_[i];
    if (s.hash != hash || s.key_size != word.size() || std::memcmp(keys_.data() + s.key, word.data(), word.size()) != 0) {
      continue;
    }
    out.insert(out.end(), ids_.begin() + s.ids, ids_.begin() + s.ids + s.id_count);
    return true;
  }
  return false;
}

void WordCache::insert(std::string_view word, const int32_t* ids, size_t count) {
  if (used_ * 2 >= slots_.size()) clear();
  const uint64_t hash = hash_of(word) | 1;
  size_t i = hash >> 40 & (slots_.size() - 1);
  while (slots_[i].hash != 0) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {hash, uint32_t(keys_.size()), uint32_t(ids_.size()), uint16_t(word.size()), uint16_t(count)};
  keys_.insert(keys_.end(), word.begin(), word.end());
  ids_.insert(ids_.end(), ids, ids + count);
  ++used_;
}

Result<Bpe> Bpe::make(std::vector<std::string> tokens, const std::vector<std::pair<std::string, std::string>>& merges,
                      BpeOptions options) {
  Bpe bpe;
  bpe.options_ = std::move(options);
  bpe.tokens_ = std::make_shared<std::vector<std::string>>(std::move(tokens));
  const auto& list = *bpe.tokens_;
  bpe.by_text_ = StringIds(list.size());
  for (size_t id = 0; id < list.size(); ++id) {
    if (!list[id].empty()) bpe.by_text_.insert(list[id], uint32_t(id));
  }
  bpe.byte_ids_.assign(256, StringIds::kNone);
  if (bpe.options_.byte_level) {
    bpe.words_ = std::make_shared<std::vector<std::string>>(list.size());
    bpe.by_word_ = StringIds(list.size());
    for (size_t id = 0; id < list.size(); ++id) {
      auto& word = (*bpe.words_)[id];
      if (!list[id].empty() && byte_level_decode(list[id], word)) bpe.by_word_.insert(word, uint32_t(id));
    }
    for (int b = 0; b < 256; ++b) {
      const char byte = char(b);
      bpe.byte_ids_[size_t(b)] = bpe.by_word_.find({&byte, 1});
    }
  } else if (bpe.options_.byte_fallback) {
    for (int b = 0; b < 256; ++b) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", b);
      bpe.byte_ids_[size_t(b)] = bpe.by_text_.find(name);
    }
  }
  if (!bpe.options_.unk_token.empty()) {
    bpe.unk_ = bpe.by_text_.find(bpe.options_.unk_token);
    if (bpe.unk_ == StringIds::kNone) {
      return invalid("model.unk_token: '", bpe.options_.unk_token, "' is not in the vocabulary");
    }
  }
  RETORT_RETURN_IF_ERROR(bpe.index_merges(merges));
  return bpe;
}

Status Bpe::index_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
  merges_.assign(std::bit_ceil(merges.size() * 2 + 2), {});
  merge_mask_ = merges_.size() - 1;
  splits_before_space_mark_ = !options_.byte_level;
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined.assign(left).append(right);
    const uint32_t l = by_text_.find(left), r = by_text_.find(right), id = by_text_.find(joined);
    if (l == StringIds::kNone || r == StringIds::kNone || id == StringIds::kNone) {
      return invalid("model.merges[", rank, "]: '", left, "' + '", right, "': ",
                     l == StringIds::kNone ? left : r == StringIds::kNone ? right : joined, " is not in the vocabulary");
    }
    if (starts_with_mark(right) && !ends_with_mark(left)) splits_before_space_mark_ = false;
    const uint64_t pair = uint64_t(l) << 32 | r;
    size_t i = mix(pair * 0x9e3779b97f4a7c15ull) & merge_mask_;
    while (merges_[i].pair != ~0ull && merges_[i].pair != pair) i = (i + 1) & merge_mask_;
    merges_[i] = {pair, uint32_t(rank), id};  // of a repeated pair the last rank counts
  }
  if (by_text_.find(kSpaceMark) == StringIds::kNone) splits_before_space_mark_ = false;
  return {};
}

const Bpe::Merge* Bpe::find_merge(uint32_t left, uint32_t right) const {
  const uint64_t pair = uint64_t(left) << 32 | right;
  for (size_t i = mix(pair * 0x9e3779b97f4a7c15ull) & merge_mask_; merges_[i].pair != ~0ull; i = (i + 1) & merge_mask_) {
    if (merges_[i].pair == pair) return &merges_[i];
  }
  return nullptr;
}

void Bpe::symbols_of(std::string_view word, std::vector<Symbol>& symbols) const {
  symbols.clear();
  const auto add = [&](uint32_t id) { symbols.push_back({id, int32_t(symbols.size()) - 1, int32_t(symbols.size()) + 1, false}); };
  uint32_t pending_unk = StringIds::kNone;
  const auto flush = [&] {
    if (pending_unk != StringIds::kNone) add(pending_unk);
    pending_unk = StringIds::kNone;
  };
  const auto unknown = [&] {
    if (unk_ == StringIds::kNone) return;
    if (!options_.fuse_unk) flush();
    pending_unk = unk_;
  };
  if (options_.byte_level) {
    for (char b : word) {
      const uint32_t id = byte_ids_[uint8_t(b)];
      if (id == StringIds::kNone) {
        unknown();
        continue;
      }
      flush();
      add(id);
    }
  } else {
    for (size_t pos = 0; pos < word.size();) {
      const size_t start = pos;
      utf8::next(word, pos);
      const std::string_view text = word.substr(start, pos - start);
      const uint32_t id = by_text_.find(text);
      if (id != StringIds::kNone) {
        flush();
        add(id);
      } else if (options_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char b) {
                   return byte_ids_[uint8_t(b)] != StringIds::kNone;
                 })) {
        for (char b : text) add(byte_ids_[uint8_t(b)]);
      } else {
        unknown();
      }
    }
  }
  flush();
  if (!symbols.empty()) symbols.back().next = -1;
}

// Lowest rank first, leftmost first among equals. A candidate whose pair has changed since is dropped unless the new pair
// gives the same token: the rule of `tokenizers`, which decides some ties that a plain scan would decide otherwise.
void Bpe::merge_all(std::vector<Symbol>& symbols) const {
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.pos > b.pos;
  };
  thread_local std::vector<Candidate> queue;
  queue.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Merge* m = find_merge(symbols[i].id, symbols[i + 1].id)) queue.push_back({m->rank, uint32_t(i), m->id});
  }
  std::make_heap(queue.begin(), queue.end(), later);
  const auto push = [&](int32_t pos) {
    const Symbol& s = symbols[size_t(pos)];
    if (s.next < 0) return;
    if (const Merge* m = find_merge(s.id, symbols[size_t(s.next)].id)) {
      queue.push_back({m->rank, uint32_t(pos), m->id});
      std::push_heap(queue.begin(), queue.end(), later);
    }
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const Candidate top = queue.back();
    queue.pop_back();
    Symbol& left = symbols[top.pos];
    if (left.dead || left.next < 0) continue;
    Symbol& right = symbols[size_t(left.next)];
    const Merge* m = find_merge(left.id, right.id);
    if (m == nullptr || m->id != top.id) continue;
    left.id = top.id;
    left.next = right.next;
    right.dead = true;
    if (left.next >= 0) symbols[size_t(left.next)].prev = int32_t(top.pos);
    if (left.prev >= 0) push(left.prev);
    push(int32_t(top.pos));
  }
}

void Bpe::encode_uncached(std::string_view word, std::vector<int32_t>& out) const {
  if (options_.ignore_merges) {
    const uint32_t id = options_.byte_level ? by_word_.find(word) : by_text_.find(word);
    if (id != StringIds::kNone) {
      out.push_back(int32_t(id));
      return;
    }
  }
  thread_local std::vector<Symbol> symbols;
  symbols_of(word, symbols);
  merge_all(symbols);
  for (const Symbol& s : symbols) {
    if (!s.dead) out.push_back(int32_t(s.id));
  }
}

void Bpe::encode(std::string_view word, WordCache& cache, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  if (word.size() > kCachedWordMax) return encode_uncached(word, out);
  if (cache.append(word, out)) return;
  const size_t before = out.size();
  encode_uncached(word, out);
  cache.insert(word, out.data() + before, out.size() - before);
}

}  // namespace retort
