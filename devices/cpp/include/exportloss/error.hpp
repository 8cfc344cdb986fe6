// Errors of this library, and helpers to write their messages.
#pragma once

#include <cstddef>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace exportloss {

/// Why a file, or an argument, is refused; what a program may want to act on.
enum class Reason {
  other,       // an argument is out of range, or the operating system or ONNX Runtime failed
  unreadable,  // the container cannot be read: not JSON, not safetensors
  foreign,     // the file is no state or artifact, or one of a kind that this runtime does not open
  damaged,     // its content does not match its checksum, or no version writes such a value
  newer,       // it is intact, and written by a later version
  incomplete,  // a state lacks a part that every state has
  values,      // tensors of a state are not finite float32, or out of range
  missing,     // a file is absent
  too_large,   // a file is above its limit
  too_many,    // more files or target rows than fit
  outside,     // a name is not a plain file name
  bad_rows,    // target rows that cannot be trained on
};

/// The one exception of this library. Its message states what was got, what was expected and what
/// to do about it, in printable text.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, Reason reason = Reason::other)
      : std::runtime_error(message), reason_(reason) {}

  Reason reason() const { return reason_; }

 private:
  Reason reason_;
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
