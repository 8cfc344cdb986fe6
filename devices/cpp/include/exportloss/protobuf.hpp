// The part of Protocol Buffers' encoding that ONNX files need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "exportloss/bytes.hpp"

namespace exportloss {

/// A field of a message.
struct Field {
  enum class Kind { number, content, fixed };
  std::uint64_t field = 0;  // number of the field
  Kind kind = Kind::number;
  std::uint64_t number = 0;  // of Kind::number
  ByteView content;          // of Kind::content: bytes, a text or a message
};

/// Reads the fields of a message one after the other.
///
/// Readers disagree on encodings that no writer produces. So numbers must be encoded in as few
/// bytes as possible, tags must fit 32 bits and sizes 31, and groups are refused.
class FieldReader {
 public:
  explicit FieldReader(ByteView message) : message_(message) {}

  /// Reads the next field; false at the end. Throws Error: the content is not a message, is
  /// truncated, or is encoded as no writer does.
  bool next(Field& field);

 private:
  std::uint64_t read_varint(std::uint64_t largest);

  ByteView message_;
  std::size_t at_ = 0;
};

/// Appends a field whose value is an integer.
void append_number(Bytes& to, std::uint64_t field, std::uint64_t value);

/// Appends a field whose value is bytes, a text or a message.
void append_content(Bytes& to, std::uint64_t field, ByteView content);

/// Appends what comes before such a value of `size` bytes.
void append_content_header(Bytes& to, std::uint64_t field, std::uint64_t size);

}  // namespace exportloss
