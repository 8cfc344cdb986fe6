// Texts: written as JSON, and checked to be UTF-8.
#include <string>

#include "exportloss/json.hpp"
#include "utf8.hpp"

namespace exportloss {

std::string json_string(std::string_view value) {
  constexpr std::string_view special = "\"\\\b\f\n\r\t", letters = "\"\\bfnrt";
  constexpr char digits[] = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char character : value) {
    const auto byte = static_cast<unsigned char>(character);
    if (const auto place = special.find(character); place != special.npos) {
      quoted += '\\';
      quoted += letters[place];
    } else if (byte < 0x20) {
      quoted += "\\u00";
      quoted += digits[byte >> 4];
      quoted += digits[byte & 15];
    } else {
      quoted += character;
    }
  }
  return quoted + '"';
}

bool is_utf8(std::string_view value) {
  for (std::size_t at = 0; at < value.size();) {
    if (next_code(value, at) == no_code) return false;
  }
  return true;
}

}  // namespace exportloss
