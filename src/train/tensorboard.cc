#include "train/tensorboard.h"

#include <array>
#include <bit>
#include <chrono>

namespace retort::train {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0x82f63b78u ^ (c >> 1) : c >> 1;  // Castagnoli, reflected
    table[i] = c;
  }
  return table;
}
constexpr auto kTable = make_table();

template <class Integer>
void put_fixed(std::string& out, Integer value) {
  for (size_t i = 0; i < sizeof value; ++i) out.push_back(char(uint8_t(value >> (8 * i))));
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(char(uint8_t(value) | 0x80));
  out.push_back(char(uint8_t(value)));
}

enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
void put_key(std::string& out, int field, Wire wire) { put_varint(out, uint64_t(field) << 3 | uint64_t(wire)); }

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_time(std::string& out, double wall_time) {
  put_key(out, 1, kFixed64);
  put_fixed(out, std::bit_cast<uint64_t>(wall_time));
}

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t c = ~0u;
  for (char byte : bytes) c = kTable[(c ^ uint8_t(byte)) & 0xff] ^ (c >> 8);
  return ~c;
}

Result<EventWriter> EventWriter::open(const std::string& path, uint64_t keep) {
  RETORT_TRY(auto file, AppendFile::open(path, keep));
  EventWriter writer(std::move(file));
  if (writer.size() > 0) return writer;
  std::string event;
  put_time(event, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  put_bytes(event, 3, "brain.Event:2");
  RETORT_RETURN_IF_ERROR(writer.record(event));
  return writer;
}

Status EventWriter::record(const std::string& event) {
  std::string out;
  put_fixed(out, uint64_t(event.size()));
  put_fixed(out, masked_crc(out));
  out += event;
  put_fixed(out, masked_crc(event));
  return file_.write(out);
}

Status EventWriter::scalars(int64_t step, double wall_time, const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [tag, value] : values) {
    std::string entry;
    put_bytes(entry, 1, tag);
    put_key(entry, 2, kFixed32);
    put_fixed(entry, std::bit_cast<uint32_t>(float(value)));
    put_bytes(summary, 1, entry);
  }
  std::string event;
  put_time(event, wall_time);
  put_key(event, 2, kVarint);
  put_varint(event, uint64_t(step));
  put_bytes(event, 5, summary);
  return record(event);
}

}  // namespace retort::train
