// Characters of UTF-8 texts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace exportloss {

inline constexpr std::uint32_t no_code = 0xffffffff;

/// Returns the code point that begins at `at`, and moves `at` behind it; `no_code` for bytes that
/// are not UTF-8 (then `at` moves by one).
inline std::uint32_t next_code(std::string_view value, std::size_t& at) {
  const auto byte = [&value](std::size_t index) -> std::uint32_t {
    return index < value.size() ? static_cast<unsigned char>(value[index]) : 0u;
  };
  const std::uint32_t first = byte(at++);
  if (first < 0x80) return first;
  const std::size_t more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  if (first < 0xc2 || first > 0xf4) return no_code;
  std::uint32_t code = first & (0x3fu >> more);
  for (std::size_t index = 0; index < more; ++index) {
    const std::uint32_t next = byte(at + index);
    if (next >> 6 != 2) return no_code;
    code = code << 6 | (next & 0x3f);
  }
  constexpr std::uint32_t least[] = {0, 0x80, 0x800, 0x10000};
  if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return no_code;
  at += more;
  return code;
}

/// Appends a code point, which is no surrogate, as UTF-8.
inline void append_utf8(std::string& to, std::uint32_t code) {
  const auto put = [&to](std::uint32_t byte) { to += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6);
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

}  // namespace exportloss
