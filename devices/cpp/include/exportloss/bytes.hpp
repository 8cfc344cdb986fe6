// Views of bytes, and numbers in them. C++17 has no std::span.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace exportloss {

using Bytes = std::vector<std::uint8_t>;

/// A view of bytes that something else owns.
class ByteView {
 public:
  constexpr ByteView() = default;
  constexpr ByteView(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  ByteView(const Bytes& bytes) : data_(bytes.data()), size_(bytes.size()) {}  // NOLINT: a view
  explicit ByteView(std::string_view text)
      : data_(reinterpret_cast<const std::uint8_t*>(text.data())), size_(text.size()) {}

  constexpr const std::uint8_t* data() const { return data_; }
  constexpr std::size_t size() const { return size_; }
  constexpr bool empty() const { return size_ == 0; }
  constexpr const std::uint8_t* begin() const { return data_; }
  constexpr const std::uint8_t* end() const { return data_ + size_; }
  constexpr std::uint8_t operator[](std::size_t index) const { return data_[index]; }

  /// Returns a part; the caller has checked that `start + size` is at most `size()`.
  constexpr ByteView part(std::size_t start, std::size_t size) const {
    return {data_ + start, size};
  }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Returns the little-endian number in the first eight bytes of `bytes`.
inline std::uint64_t read_u64(ByteView bytes) {
  std::uint64_t value = 0;
  for (std::size_t index = 8; index-- > 0;) value = value << 8 | bytes[index];
  return value;
}

/// Returns the eight bytes of a number, little-endian.
inline std::array<std::uint8_t, 8> u64_bytes(std::uint64_t value) {
  std::array<std::uint8_t, 8> bytes{};
  for (auto& byte : bytes) {
    byte = static_cast<std::uint8_t>(value & 0xff);
    value >>= 8;
  }
  return bytes;
}

/// Appends bytes to others.
inline void append(Bytes& to, ByteView more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace exportloss
