// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "exportloss/bytes.hpp"

namespace exportloss {

/// SHA-256 of bytes that are given piece by piece.
class Sha256 {
 public:
  Sha256& update(ByteView bytes);

  /// Returns the digest in hexadecimal, 64 characters; nothing may be added afterwards.
  std::string hex();

 private:
  void compress(const std::uint8_t* block);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_{};
  std::uint64_t size_ = 0;  // bytes given so far
};

/// Returns the digest of bytes in hexadecimal.
inline std::string sha256(ByteView bytes) { return Sha256().update(bytes).hex(); }

}  // namespace exportloss
