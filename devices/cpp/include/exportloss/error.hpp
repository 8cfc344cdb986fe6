// Errors of this library, and helpers to write their messages.
#pragma once

#include <cstddef>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace exportloss {

/// The one exception of this library. Its message states what was got, what was expected and what
/// to do about it, as one line of printable text.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Joins values into one text, written as `operator<<` writes them.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  (stream << ... << parts);
  return stream.str();
}

/// Quotes at most `length` bytes of a text from a file. Bytes that are not printable ASCII are
/// escaped: a file must not send commands to a terminal.
std::string excerpt(std::string_view value, std::size_t length = 60);

}  // namespace exportloss
