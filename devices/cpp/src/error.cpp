#include "exportloss/error.hpp"

namespace exportloss {

std::string excerpt(std::string_view value, std::size_t length) {
  constexpr char digits[] = "0123456789abcdef";
  std::string quoted = "'";
  for (const char character : value.substr(0, length)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte >= 0x20 && byte < 0x7f) {
      quoted += character;
    } else {
      quoted += "\\x";
      quoted += digits[byte >> 4];
      quoted += digits[byte & 15];
    }
  }
  return quoted + (value.size() > length ? "...'" : "'");
}

}  // namespace exportloss
