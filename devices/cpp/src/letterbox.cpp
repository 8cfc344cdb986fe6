#include "exportloss/letterbox.hpp"

#include <algorithm>
#include <cmath>

#include "exportloss/error.hpp"
#include "exportloss/limits.hpp"

namespace exportloss {
namespace {

constexpr std::int32_t weight_one = 1 << 11;  // weights have 11 bits of fraction

void check_size(Size size, const char* what) {
  const auto [least, most] = std::minmax(size.height, size.width);
  if (least < 1 || most > limits::image_side) {
    throw Error(text(what, " has ", size.height, " x ", size.width, " pixels; expected sides of 1 to ",
                     limits::image_side));
  }
}

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

double clip(double value, double most) { return std::min(std::max(value, 0.0), most); }

}  // namespace

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

Letterbox Letterbox::fit(Size source, Size size, bool scale_up, bool truncate) {
  check_size(source, "the image");
  check_size(size, "the canvas");
  const auto height = static_cast<double>(source.height), width = static_cast<double>(source.width);
  double scale =
      std::min(static_cast<double>(size.height) / height, static_cast<double>(size.width) / width);
  if (!scale_up) scale = std::min(scale, 1.0);
  const auto whole = [truncate](double side) {
    const double pixels = truncate ? std::trunc(side) : std::nearbyint(side);
    return std::max<std::int64_t>(static_cast<std::int64_t>(pixels), 1);
  };
  const Size scaled{whole(height * scale), whole(width * scale)};
  return {source, size, scaled,
          {(size.height - scaled.height) / 2, (size.width - scaled.width) / 2}};
}

Label Letterbox::map_label(const Label& label) const {
  // In the order of operations of the Python package, so that the numbers are the same.
  const double across = ratio_x() * static_cast<double>(source.width);
  const double down = ratio_y() * static_cast<double>(source.height);
  const auto canvas_width = static_cast<double>(size.width);
  const auto canvas_height = static_cast<double>(size.height);
  const auto moved = [](double value, double scale, std::int64_t before, double canvas) {
    return static_cast<float>(
        clip((value * scale + static_cast<double>(before)) / canvas, 1.0));
  };
  const auto sized = [](double value, double scale) {
    return static_cast<float>(clip(value * scale, 1.0));
  };
  return {label.category, moved(double{label.x}, across, pad.width, canvas_width),
          moved(double{label.y}, down, pad.height, canvas_height),
          sized(double{label.width}, across / canvas_width),
          sized(double{label.height}, down / canvas_height)};
}

Box Letterbox::unmap_box(const Box& box) const {
  const auto across = [this](float value) {
    return static_cast<float>(clip((double{value} - static_cast<double>(pad.width)) / ratio_x(),
                                   static_cast<double>(source.width)));
  };
  const auto down = [this](float value) {
    return static_cast<float>(clip((double{value} - static_cast<double>(pad.height)) / ratio_y(),
                                   static_cast<double>(source.height)));
  };
  return {across(box.x1), down(box.y1), across(box.x2), down(box.y2), box.confidence, box.category};
}

void place_image(const Image& image, const Letterbox& box, std::uint8_t* out, std::uint8_t grey) {
  if (image.size != box.source) throw Error("the letterbox is of an image of another size");
  const Image scaled = resize_linear(image, box.scaled);
  const std::size_t plane = elements({box.size.height, box.size.width});
  std::fill_n(out, plane * 3, grey);
  const std::uint8_t* pixel = scaled.pixels.data();
  for (std::int64_t row = 0; row < box.scaled.height; ++row) {
    const std::int64_t start = (row + box.pad.height) * box.size.width + box.pad.width;
    for (std::int64_t column = 0; column < box.scaled.width; ++column) {
      const auto at = static_cast<std::size_t>(start + column);
      for (std::size_t channel = 0; channel < 3; ++channel) out[channel * plane + at] = *pixel++;
    }
  }
}

}  // namespace exportloss
