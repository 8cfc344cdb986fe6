#include "exportloss/file_format.hpp"

#include <charconv>

#include "exportloss/error.hpp"

namespace exportloss {

std::optional<int> format_number(std::string_view family, std::string_view found) {
  if (found.substr(0, family.size()) != family) return std::nullopt;
  std::string_view rest = found.substr(family.size());
  if (rest.size() < 2 || rest.size() > 7 || rest[0] != '/' || rest[1] < '1' || rest[1] > '9') {
    return std::nullopt;
  }
  rest.remove_prefix(1);
  int number = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (error != std::errc() || end != rest.data() + rest.size()) return std::nullopt;
  return number;
}

void refuse_newer(const std::string& path, const std::string& found, const std::string& known) {
  throw Error(text(path, " was written by a newer exportloss (", found, "; this one reads ", known,
                   "); upgrade this runtime"),
              Reason::newer);
}

}  // namespace exportloss
