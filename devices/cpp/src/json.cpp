#include "exportloss/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <locale>
#include <sstream>
#include <utility>

#include "exportloss/error.hpp"
#include "utf8.hpp"

namespace exportloss {
namespace {

constexpr const char* kinds[] = {"null",     "true or false", "an integer", "a number",
                                 "a string", "an array",      "an object"};

}  // namespace

/// Reads one document, character by character.
class JsonReader {
 public:
  explicit JsonReader(std::string_view document) : document_(document) {}

  Json read() {
    if (!is_utf8(document_)) throw Error("it is not UTF-8");
    Json value = read_value(0);
    skip_space();
    if (at_ != document_.size()) fail("more after its end");
    return value;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw Error(text("it is not JSON: ", what, " at byte ", at_));
  }

  char peek() const { return at_ < document_.size() ? document_[at_] : '\0'; }

  bool take(char wanted) {
    if (peek() != wanted || at_ == document_.size()) return false;
    ++at_;
    return true;
  }

  void expect(std::string_view word) {
    if (document_.substr(at_, word.size()) != word) fail("no value");
    at_ += word.size();
  }

  void skip_space() {
    while (at_ < document_.size() &&
           (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t')) {
      ++at_;
    }
  }

  Json read_value(std::size_t depth) {
    if (++values_ > Json::most_values) fail(text("more than ", Json::most_values, " values"));
    if (depth > Json::deepest) fail(text("nested more than ", Json::deepest, " deep"));
    skip_space();
    Json json;
    switch (peek()) {
      case '{':
        json.value_ = read_object(depth);
        break;
      case '[':
        json.value_ = read_array(depth);
        break;
      case '"':
        json.value_ = read_string();
        break;
      case 't':
        expect("true");
        json.value_ = true;
        break;
      case 'f':
        expect("false");
        json.value_ = false;
        break;
      case 'n':
        expect("null");
        break;
      default:
        read_number(json);
    }
    return json;
  }

  Json::Array read_array(std::size_t depth) {
    Json::Array items;
    ++at_;
    skip_space();
    if (take(']')) return items;
    do {
      items.push_back(read_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) fail("no ',' or ']'");
    return items;
  }

  Json::Object read_object(std::size_t depth) {
    Json::Object members;
    ++at_;
    skip_space();
    if (take('}')) return members;
    do {
      skip_space();
      if (peek() != '"') fail("no name");
      std::string name = read_string();
      skip_space();
      if (!take(':')) fail("no ':'");
      members.push_back({std::move(name), read_value(depth + 1)});
      skip_space();
    } while (take(','));
    if (!take('}')) fail("no ',' or '}'");
    std::sort(members.begin(), members.end(),
              [](const auto& one, const auto& other) { return one.name < other.name; });
    const auto twice = std::adjacent_find(
        members.begin(), members.end(),
        [](const auto& one, const auto& other) { return one.name == other.name; });
    if (twice != members.end()) fail(text("an object that has ", excerpt(twice->name), " twice"));
    return members;
  }

  std::string read_string() {
    std::string value;
    ++at_;
    while (!take('"')) {
      if (at_ == document_.size()) fail("a string without end");
      const char character = document_[at_++];
      if (static_cast<unsigned char>(character) < 0x20) fail("a control character in a string");
      if (character != '\\') {
        value += character;
      } else {
        read_escape(value);
      }
    }
    return value;
  }

  void read_escape(std::string& value) {
    constexpr std::string_view letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    const char letter = peek();
    ++at_;
    if (letter == 'u') {
      std::uint32_t code = read_hex();
      if (code >= 0xd800 && code < 0xdc00) {
        if (!(take('\\') && take('u'))) fail("half a surrogate pair");
        const std::uint32_t low = read_hex();
        if (low < 0xdc00 || low > 0xdfff) fail("half a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      } else if (code >= 0xdc00 && code < 0xe000) {
        fail("half a surrogate pair");
      }
      append_utf8(value, code);
    } else if (const auto place = letters.find(letter); letter && place != letters.npos) {
      value += meant[place];
    } else {
      fail("an unknown escape");
    }
  }

  std::uint32_t read_hex() {
    const std::string_view digits = document_.substr(at_, 4);
    std::uint32_t value = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() < 4 || error != std::errc() || end != digits.data() + 4) fail("no \\uXXXX");
    at_ += 4;
    return value;
  }

  bool take_digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  void read_number(Json& json) {
    const std::size_t start = at_;
    take('-');
    const bool leads_with_zero = peek() == '0';
    const std::size_t first = at_;
    if (!take_digits() || (leads_with_zero && at_ - first > 1)) fail("no value");
    bool is_integer = true;
    if (take('.')) {
      is_integer = false;
      if (!take_digits()) fail("no digit after '.'");
    }
    if (take('e') || take('E')) {
      is_integer = false;
      if (!take('+')) take('-');
      if (!take_digits()) fail("no exponent");
    }
    const std::string_view spelled = document_.substr(start, at_ - start);
    if (is_integer) {
      std::int64_t value = 0;
      if (std::from_chars(spelled.data(), spelled.data() + spelled.size(), value).ec !=
          std::errc()) {
        fail("an integer of more than 64 bits");
      }
      json.value_ = value;
    } else {
      json.value_ = read_double(spelled);
    }
  }

  // std::from_chars of a double is missing in some standard libraries, and strtod follows the
  // locale of the process.
  double read_double(std::string_view spelled) const {
    if (spelled.size() > 400) fail("a number of more than 400 characters");
    std::istringstream stream{std::string(spelled)};
    stream.imbue(std::locale::classic());
    double value = 0;
    if (!(stream >> value) || !std::isfinite(value)) fail("a number out of range");
    return value;
  }

  std::string_view document_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;
};

namespace {

template <class Value, class Variant>
const Value& value_of(const Variant& variant, const char* wanted) {
  if (const auto* value = std::get_if<Value>(&variant)) return *value;
  throw Error(text("it has ", kinds[variant.index()], " where ", wanted, " is expected"));
}

}  // namespace

Json Json::parse(std::string_view document) { return JsonReader(document).read(); }

bool Json::boolean() const { return value_of<bool>(value_, kinds[1]); }

std::int64_t Json::integer() const { return value_of<std::int64_t>(value_, kinds[2]); }

std::int64_t Json::whole() const {
  constexpr std::int64_t largest = (std::int64_t{1} << 53) - 1;  // exact in every language
  const auto* fraction = std::get_if<double>(&value_);
  const bool is_whole = fraction != nullptr && std::trunc(*fraction) == *fraction &&
                        std::abs(*fraction) <= static_cast<double>(largest);
  const std::int64_t value = is_whole ? static_cast<std::int64_t>(*fraction) : integer();
  if (value > largest || value < -largest) throw Error(text("it has ", value, ", beyond 2^53 - 1"));
  return value;
}

double Json::number() const {
  if (const auto* whole = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*whole);
  return value_of<double>(value_, kinds[3]);
}

const std::string& Json::string() const { return value_of<std::string>(value_, kinds[4]); }

const Json::Array& Json::array() const { return value_of<Array>(value_, kinds[5]); }

const Json::Object& Json::object() const { return value_of<Object>(value_, kinds[6]); }

const Json* Json::find(std::string_view name) const {
  const Object& members = object();
  const auto found = std::lower_bound(
      members.begin(), members.end(), name,
      [](const Member& member, std::string_view key) { return member.name < key; });
  return found != members.end() && found->name == name ? &found->value : nullptr;
}

const Json& Json::at(std::string_view name) const {
  if (const Json* found = find(name)) return *found;
  throw Error(text("it lacks ", excerpt(name)));
}

bool operator==(const Json& one, const Json& other) {
  const bool has_numbers = (one.value_.index() == 2 || one.value_.index() == 3) &&
                           (other.value_.index() == 2 || other.value_.index() == 3);
  return has_numbers ? one.number() == other.number() : one.value_ == other.value_;
}

bool operator==(const Json::Member& one, const Json::Member& other) {
  return one.name == other.name && one.value == other.value;
}

}  // namespace exportloss
