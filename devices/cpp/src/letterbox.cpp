#include "exportloss/letterbox.hpp"

#include <algorithm>
#include <cmath>

#include "exportloss/error.hpp"
#include "exportloss/resize.hpp"

namespace exportloss {
namespace {

double clip(double value, double most) { return std::min(std::max(value, 0.0), most); }

double rounded(double value) { return double{static_cast<float>(value)}; }

}  // namespace

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
  return {
      source, size, scaled, {(size.height - scaled.height) / 2, (size.width - scaled.width) / 2}};
}

Label Letterbox::map_label(const Label& label) const {
  // In the order of operations of the Python package, so that the numbers are the same.
  const double across = ratio_x() * static_cast<double>(source.width);
  const double down = ratio_y() * static_cast<double>(source.height);
  const auto canvas_width = static_cast<double>(size.width);
  const auto canvas_height = static_cast<double>(size.height);
  const auto moved = [](double value, double scale, std::int64_t before, double canvas) {
    return rounded(clip((value * scale + static_cast<double>(before)) / canvas, 1.0));
  };
  const auto sized = [](double value, double scale) { return rounded(clip(value * scale, 1.0)); };
  return {label.category, moved(label.x, across, pad.width, canvas_width),
          moved(label.y, down, pad.height, canvas_height),
          sized(label.width, across / canvas_width), sized(label.height, down / canvas_height)};
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

void place_image(const Image& image, const Letterbox& box, std::uint8_t* out, Shrink shrink,
                 std::uint8_t grey) {
  if (image.size != box.source) throw Error("the letterbox is of an image of another size");
  const bool shrinks =
      box.scaled.height <= image.size.height && box.scaled.width <= image.size.width;
  const Image scaled = shrinks && shrink == Shrink::area ? resize_area(image, box.scaled)
                                                         : resize_linear(image, box.scaled);
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
