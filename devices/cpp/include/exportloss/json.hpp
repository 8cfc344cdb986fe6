// A strict reader of JSON (RFC 8259), with limits, and a writer of texts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace exportloss {

/// A value of a JSON document.
///
/// Stricter than the RFC asks for: an object has each name once, every text is UTF-8 without half
/// surrogate pairs, and a number with an integer's spelling fits into 64 bits.
class Json {
 public:
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // sorted by name

  static constexpr std::size_t deepest = 32;             // arrays and objects within each other
  static constexpr std::size_t most_values = 2'000'000;  // of a document

  Json() = default;

  /// Reads a document. Throws Error.
  static Json parse(std::string_view document);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_integer() const { return std::holds_alternative<std::int64_t>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  /// Each returns the value of its type. Throws Error if the value is of another type.
  bool boolean() const;
  std::int64_t integer() const;
  std::int64_t whole() const;  // of a number such as 8.0, too, up to 2^53 - 1
  double number() const;       // of an integer, too
  const std::string& string() const;
  const Array& array() const;
  const Object& object() const;

  /// Returns a member of an object, or null if the object lacks it. Throws Error: not an object.
  const Json* find(std::string_view name) const;

  /// Returns a member of an object. Throws Error: it lacks the member, or is not an object.
  const Json& at(std::string_view name) const;

 private:
  friend class JsonReader;
  friend bool operator==(const Json& one, const Json& other);
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

struct Json::Member {
  std::string name;
  Json value;
};

bool operator==(const Json::Member& one, const Json::Member& other);

/// Returns whether two values are equal; numbers by value, so that 8 is 8.0.
bool operator==(const Json& one, const Json& other);

/// Returns a text as JSON, in quotes, without escapes that need not be. `value` is UTF-8.
std::string json_string(std::string_view value);

/// Returns whether bytes are UTF-8: no overlong forms, surrogates or numbers above U+10FFFF.
bool is_utf8(std::string_view value);

}  // namespace exportloss
