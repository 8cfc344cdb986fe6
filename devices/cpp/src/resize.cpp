#include "exportloss/resize.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "exportloss/error.hpp"
#include "exportloss/limits.hpp"

namespace exportloss {
namespace {

constexpr std::int32_t weight_one = 1 << 11;  // weights have 11 bits of fraction

void check_image(const Image& image) {
  check_size(image.size, "the image");
  const std::size_t expected = elements({image.size.height, image.size.width, 3});
  if (image.pixels.size() != expected) {
    throw Error(text("the image has ", image.pixels.size(), " bytes; expected ", expected,
                     ": height * width * 3, RGB"));
  }
}

// Two source indices per output pixel of a line, and the weight of the second.
struct Neighbours {
  std::vector<std::size_t> first, second;
  std::vector<std::int32_t> weight;
};

Neighbours neighbours(std::int64_t length, std::int64_t wanted) {
  Neighbours found;
  const double scale = static_cast<double>(length) / static_cast<double>(wanted);
  for (std::int64_t place = 0; place < wanted; ++place) {
    const auto middle = static_cast<float>((static_cast<double>(place) + 0.5) * scale - 0.5);
    const float below = std::floor(middle);
    const auto index = static_cast<std::int64_t>(below);
    const bool is_inside = index >= 0 && index < length - 1;
    const float weight = (middle - below) * static_cast<float>(weight_one);
    found.weight.push_back(is_inside ? static_cast<std::int32_t>(std::nearbyint(weight)) : 0);
    const auto clipped = [length](std::int64_t at) {
      return static_cast<std::size_t>(std::clamp<std::int64_t>(at, 0, length - 1));
    };
    found.first.push_back(clipped(index));
    found.second.push_back(clipped(index + 1));
  }
  return found;
}

// One line, interpolated across; without its lowest bits, so that the next product fits 32 bits.
void fill_line(const std::uint8_t* row, const Neighbours& across, std::vector<std::int32_t>& line) {
  auto out = line.begin();
  for (std::size_t column = 0; column < across.weight.size(); ++column) {
    const std::uint8_t* left = row + across.first[column] * 3;
    const std::uint8_t* right = row + across.second[column] * 3;
    const std::int32_t weight = across.weight[column];
    for (std::size_t channel = 0; channel < 3; ++channel) {
      *out++ = (left[channel] * (weight_one - weight) + right[channel] * weight) >> 4;
    }
  }
}

// A line along an axis, as the mean over `wanted` equal spans, which may begin and end within a
// pixel. `at(n)` and `out(n)` are the n-th pixel of the line and of the result.
template <class At, class Out>
void mean_over(std::int64_t held, std::int64_t wanted, const At& at, const Out& out) {
  const double span = static_cast<double>(held) / static_cast<double>(wanted);
  const auto steps = static_cast<std::int64_t>(std::ceil(span)) + 1;
  for (std::int64_t place = 0; place < wanted; ++place) {
    const double start = static_cast<double>(place) * span;
    float total = 0;
    for (std::int64_t step = 0; step < steps; ++step) {
      const std::int64_t pixel = static_cast<std::int64_t>(start) + step;
      const double covered = std::min(start + span, static_cast<double>(pixel + 1)) -
                             std::max(start, static_cast<double>(pixel));
      const auto weight = static_cast<float>(std::max(covered, 0.0) / span);
      total += weight * at(static_cast<std::size_t>(std::min(pixel, held - 1)));
    }
    out(static_cast<std::size_t>(place), total);
  }
}

}  // namespace

void check_size(Size size, const char* what) {
  const auto [least, most] = std::minmax(size.height, size.width);
  if (least < 1 || most > limits::image_side) {
    throw Error(text(what, " has ", size.height, " x ", size.width,
                     " pixels; expected sides of 1 to ", limits::image_side));
  }
}

Image resize_linear(const Image& image, Size size) {
  check_image(image);
  check_size(size, "the result");
  if (image.size == size) return image;
  const Neighbours across = neighbours(image.size.width, size.width);
  const Neighbours down = neighbours(image.size.height, size.height);
  const std::size_t stride = static_cast<std::size_t>(image.size.width) * 3;
  const std::size_t width = static_cast<std::size_t>(size.width) * 3;
  Image result{size, Bytes(static_cast<std::size_t>(size.height) * width)};
  std::vector<std::int32_t> upper(width), lower(width);
  std::size_t held_upper = SIZE_MAX, held_lower = SIZE_MAX;  // source rows of the two lines
  auto out = result.pixels.begin();
  for (std::size_t row = 0; row < down.weight.size(); ++row) {
    if (down.first[row] == held_lower) {
      std::swap(upper, lower);
      std::swap(held_upper, held_lower);
    }
    if (down.first[row] != held_upper) {
      fill_line(image.pixels.data() + down.first[row] * stride, across, upper);
      held_upper = down.first[row];
    }
    if (down.second[row] != held_lower) {
      fill_line(image.pixels.data() + down.second[row] * stride, across, lower);
      held_lower = down.second[row];
    }
    const std::int32_t weight = down.weight[row];
    for (std::size_t at = 0; at < width; ++at) {
      const std::int32_t top = upper[at] * (weight_one - weight) >> 16;
      const std::int32_t bottom = lower[at] * weight >> 16;
      *out++ = static_cast<std::uint8_t>((top + bottom + 2) >> 2);
    }
  }
  return result;
}

Image resize_area(const Image& image, Size size) {
  check_image(image);
  check_size(size, "the result");
  if (size.height > image.size.height || size.width > image.size.width) {
    throw Error("the result is larger than the image; expected at most the image's size");
  }
  const auto height = static_cast<std::size_t>(size.height);
  const auto held_width = static_cast<std::size_t>(image.size.width);
  std::vector<float> rows(height * held_width * 3);  // means over the heights
  for (std::size_t column = 0; column < held_width * 3; ++column) {
    const auto at = [&](std::size_t row) {
      return static_cast<float>(image.pixels[row * held_width * 3 + column]);
    };
    const auto out = [&](std::size_t row, float value) {
      rows[row * held_width * 3 + column] = value;
    };
    mean_over(image.size.height, size.height, at, out);
  }
  Image result{size, Bytes(height * static_cast<std::size_t>(size.width) * 3)};
  for (std::size_t row = 0; row < height; ++row) {
    for (std::size_t channel = 0; channel < 3; ++channel) {
      const float* line = rows.data() + row * held_width * 3 + channel;
      std::uint8_t* pixels =
          result.pixels.data() + row * static_cast<std::size_t>(size.width) * 3 + channel;
      mean_over(
          image.size.width, size.width, [&](std::size_t column) { return line[column * 3]; },
          [&](std::size_t column, float value) {
            pixels[column * 3] = static_cast<std::uint8_t>(std::nearbyint(value));
          });
    }
  }
  return result;
}

}  // namespace exportloss
