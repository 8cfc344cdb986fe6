#include "exportloss/protobuf.hpp"

#include "exportloss/error.hpp"

namespace exportloss {
namespace {

constexpr std::uint64_t varint = 0, fixed64 = 1, length_delimited = 2, fixed32 = 5;  // wire types
constexpr std::uint64_t largest_tag = 0xffffffff, largest_size = 0x7fffffff;
constexpr std::uint64_t largest_number = ~std::uint64_t{0};
constexpr std::size_t longest_varint = 10;  // bytes

void append_varint(Bytes& to, std::uint64_t value) {
  for (; value > 0x7f; value >>= 7) to.push_back(static_cast<std::uint8_t>(value & 0x7f) | 0x80);
  to.push_back(static_cast<std::uint8_t>(value));
}

}  // namespace

bool FieldReader::next(Field& field) {
  if (at_ == message_.size()) return false;
  const std::uint64_t tag = read_varint(largest_tag);
  field = Field{};
  field.field = tag >> 3;
  if (field.field == 0) throw Error(text("field number 0 before byte ", at_));
  std::uint64_t size = 0;
  switch (tag & 7) {
    case varint:
      field.number = read_varint(largest_number);
      return true;
    case length_delimited:
      field.kind = Field::Kind::content;
      size = read_varint(largest_size);
      break;
    case fixed64:
    case fixed32:
      field.kind = Field::Kind::fixed;
      size = (tag & 7) == fixed64 ? 8 : 4;
      break;
    default:
      throw Error(text("wire type ", tag & 7, " before byte ", at_));
  }
  if (size > message_.size() - at_) {
    throw Error(
        text("field ", field.field, " ends ", size - (message_.size() - at_), " bytes too late"));
  }
  field.content = message_.part(at_, static_cast<std::size_t>(size));
  at_ += static_cast<std::size_t>(size);
  return true;
}

std::uint64_t FieldReader::read_varint(std::uint64_t largest) {
  const std::size_t start = at_;
  std::uint64_t value = 0;
  for (std::size_t index = 0; index < longest_varint && at_ < message_.size(); ++index) {
    const std::uint64_t byte = message_[at_++];
    // The tenth byte holds one bit of a number of 64.
    const bool overflows = index == longest_varint - 1 && byte > 1;
    if (!overflows) value |= (byte & 0x7f) << 7 * index;
    if (byte < 0x80) {
      if (overflows || value > largest || (byte == 0 && index > 0)) {
        throw Error(text("a number at byte ", start, " is encoded as no writer does"));
      }
      return value;
    }
  }
  throw Error(text("no number at byte ", start));
}

void append_number(Bytes& to, std::uint64_t field, std::uint64_t value) {
  append_varint(to, field << 3 | varint);
  append_varint(to, value);
}

void append_content_header(Bytes& to, std::uint64_t field, std::uint64_t size) {
  append_varint(to, field << 3 | length_delimited);
  append_varint(to, size);
}

void append_content(Bytes& to, std::uint64_t field, ByteView content) {
  append_content_header(to, field, content.size());
  append(to, content);
}

}  // namespace exportloss
