// Characters that a name may have: names are printed, drawn and written to files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "utf8.hpp"

namespace exportloss {

struct CodeRange {
  std::uint32_t first, last;
};

// Unicode's categories Cc, Cf, Co, Zl, Zp, and Zs without the space: controls, marks that turn the
// direction of text, private use, other spaces. Unassigned characters differ between releases.
inline constexpr CodeRange unprintable[] = {
    {0x0, 0x1f},         {0x7f, 0xa0},         {0xad, 0xad},         {0x600, 0x605},
    {0x61c, 0x61c},      {0x6dd, 0x6dd},       {0x70f, 0x70f},       {0x890, 0x891},
    {0x8e2, 0x8e2},      {0x1680, 0x1680},     {0x180e, 0x180e},     {0x2000, 0x200f},
    {0x2028, 0x202f},    {0x205f, 0x2064},     {0x2066, 0x206f},     {0x3000, 0x3000},
    {0xe000, 0xf8ff},    {0xfdd0, 0xfdef},     {0xfeff, 0xfeff},     {0xfff9, 0xfffb},
    {0xfffe, 0xffff},    {0x110bd, 0x110bd},   {0x110cd, 0x110cd},   {0x13430, 0x1343f},
    {0x1bca0, 0x1bca3},  {0x1d173, 0x1d17a},   {0xe0001, 0xe0001},   {0xe0020, 0xe007f},
    {0xf0000, 0x10ffff},
};

inline bool is_printable(std::uint32_t code) {
  const bool is_no_character = (code & 0xfffe) == 0xfffe;
  return !is_no_character && std::none_of(std::begin(unprintable), std::end(unprintable),
                                          [code](const CodeRange& range) {
                                            return code >= range.first && code <= range.last;
                                          });
}

/// Returns whether a text in UTF-8 has printable characters only, at most `longest`.
inline bool is_printable(std::string_view value, std::size_t longest) {
  std::size_t characters = 0;
  for (std::size_t at = 0; at < value.size(); ++characters) {
    if (characters == longest || !is_printable(next_code(value, at))) return false;
  }
  return true;
}

}  // namespace exportloss
