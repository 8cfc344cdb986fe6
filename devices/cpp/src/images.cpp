#include "exportloss/images.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <locale>
#include <set>
#include <sstream>
#include <string_view>

#include "exportloss/error.hpp"
#include "exportloss/files.hpp"
#include "exportloss/limits.hpp"

namespace exportloss {
namespace {

bool is_space(std::uint8_t byte) {
  return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n' || byte == '\v' ||
         byte == '\f';
}

/// Reads the numbers of a PPM header, which comments may interrupt.
class PpmHeader {
 public:
  PpmHeader(ByteView content, const std::string& where) : content_(content), where_(where) {}

  std::int64_t number() {
    while (at_ < content_.size() && (is_space(content_[at_]) || content_[at_] == '#')) {
      const bool is_comment = content_[at_] == '#';
      ++at_;
      while (is_comment && at_ < content_.size() && content_[at_] != '\n') ++at_;
    }
    const std::size_t start = at_;
    std::int64_t value = 0;
    while (at_ < content_.size() && content_[at_] >= '0' && content_[at_] <= '9') {
      value = std::min<std::int64_t>(value * 10 + (content_[at_++] - '0'), 1'000'000);
    }
    if (at_ == start) throw Error(text(where_, " is no PPM image: no number at byte ", at_));
    return value;
  }

  std::size_t& at() { return at_; }

 private:
  ByteView content_;
  const std::string& where_;
  std::size_t at_ = 2;
};

double number_of(const std::string& spelled, const char* column) {
  std::istringstream stream(spelled);
  stream.imbue(std::locale::classic());
  double value = 0;
  stream >> value;
  if (stream.fail() || !stream.eof() || !std::isfinite(value)) {
    throw Error(text(column, ' ', excerpt(spelled), " is not a finite number"));
  }
  return value;
}

Label parse_line(const std::vector<std::string>& columns, std::int64_t num_classes) {
  constexpr std::array<const char*, 5> names{"class", "x", "y", "width", "height"};
  if (columns.size() != names.size()) {
    throw Error(text(columns.size(), " columns, expected 5 (class x y width height)"));
  }
  std::array<double, 5> row{};
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = number_of(columns[i], names[i]);
  if (!(row[0] >= 0 && row[0] < static_cast<double>(num_classes)) || std::trunc(row[0]) != row[0]) {
    throw Error(
        text("class ", excerpt(columns[0]), ", expected a whole number in [0, ", num_classes, ")"));
  }
  for (std::size_t i = 1; i < row.size(); ++i) {
    // As float32, so that 1.00000004 is 1.
    if (!(static_cast<float>(row[i]) >= 0.0f && static_cast<float>(row[i]) <= 1.0f)) {
      throw Error(text(names[i], ' ', row[i], ", expected a fraction of the image in [0, 1]"));
    }
    if (i > 2 && row[i] < double{std::numeric_limits<float>::min()}) {
      throw Error(text(names[i], ' ', row[i], ", expected a size above 0"));
    }
  }
  const auto value = [&row](std::size_t i) { return double{static_cast<float>(row[i])}; };
  return {value(0), value(1), value(2), value(3), value(4)};
}

std::vector<std::string> split(std::string_view line) {
  std::vector<std::string> columns;
  bool is_inside = false;
  for (const char character : line) {
    if (is_space(static_cast<std::uint8_t>(character))) {
      is_inside = false;
      continue;
    }
    if (!is_inside) columns.emplace_back();
    is_inside = true;
    columns.back() += character;
  }
  return columns;
}

}  // namespace

Image parse_ppm(ByteView content, const std::string& where) {
  if (content.size() < 3 || content[0] != 'P' || content[1] != '6' || !is_space(content[2])) {
    throw Error(text(where, " is no binary PPM image (P6); convert it to one"));
  }
  PpmHeader header(content, where);
  Image image;
  image.size.width = header.number();
  image.size.height = header.number();
  const std::int64_t most = header.number();
  for (const std::int64_t side : {image.size.width, image.size.height}) {
    if (side < 1 || side > limits::image_side) {
      throw Error(
          text(where, " has a side of ", side, " pixels; expected 1 to ", limits::image_side));
    }
  }
  if (most != 255) throw Error(text(where, " has values up to ", most, "; expected 255"));
  const std::size_t expected = elements({image.size.height, image.size.width, 3});
  const std::size_t start = header.at() + 1;  // after the one space behind the header
  if (start > content.size() || content.size() - start != expected ||
      !is_space(content[header.at()])) {
    throw Error(text(where, " has ", content.size(), " bytes; expected ", start + expected,
                     " by its header"));
  }
  const ByteView pixels = content.part(start, expected);
  image.pixels.assign(pixels.begin(), pixels.end());
  return image;
}

Image read_ppm(const std::filesystem::path& path) {
  return parse_ppm(read_bounded(path, limits::image_bytes), name_of(path));
}

std::vector<Label> parse_labels(ByteView content, std::int64_t num_classes,
                                const std::string& where) {
  std::string_view rest = content.text();
  if (rest.substr(0, 3) == "\xef\xbb\xbf") rest.remove_prefix(3);  // a byte order mark
  std::vector<Label> labels;
  std::set<std::array<double, 5>> seen;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    if (number > limits::label_lines) {
      throw Error(text(where, ':', number, ": too many lines; expected a label file"));
    }
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::vector<std::string> columns = split(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (columns.empty()) continue;
    try {
      const Label label = parse_line(columns, num_classes);
      if (seen.insert({label.category, label.x, label.y, label.width, label.height}).second) {
        labels.push_back(label);
      }
    } catch (const Error& error) {
      throw Error(text(where, ':', number, ": ", error.what()));
    }
  }
  return labels;
}

std::vector<Label> read_labels(const std::filesystem::path& path, std::int64_t num_classes) {
  if (is_absent(path)) return {};
  return parse_labels(read_bounded(path, limits::label_bytes), num_classes, name_of(path));
}

}  // namespace exportloss
