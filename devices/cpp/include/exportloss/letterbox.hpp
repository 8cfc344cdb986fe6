// Letterboxing: an image scaled into the fixed size of a graph, and boxes mapped there and back.
#pragma once

#include <cstdint>

#include "exportloss/manifest.hpp"
#include "exportloss/nms.hpp"
#include "exportloss/resize.hpp"

namespace exportloss {

/// Box of a label: class, and centre and size as fractions of an image.
struct Label {
  double category = 0;
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
};

/// Position and scale of an image on its canvas.
struct Letterbox {
  Size source;  // of the image
  Size size;    // of the canvas
  Size scaled;  // of the image on the canvas
  Size pad;     // above it, and to the left

  /// Scales an image to fit a canvas, keeps its aspect ratio, and centres it. `scale_up`: whether
  /// to enlarge an image smaller than the canvas. `truncate`: whether to truncate the scaled sides
  /// to whole pixels, as YOLOv5 does for training, instead of rounding them, as for detection.
  /// Throws Error: a side is below 1.
  static Letterbox fit(Size source, Size size, bool scale_up = true, bool truncate = false);

  /// Moves a label from the image to the canvas; the result is rounded to float32.
  Label map_label(const Label& label) const;

  /// Moves a predicted box from the canvas to the image, and clips it to the image.
  Box unmap_box(const Box& box) const;

  /// Canvas pixels per image pixel.
  double ratio_y() const { return static_cast<double>(scaled.height) / double(source.height); }
  double ratio_x() const { return static_cast<double>(scaled.width) / double(source.width); }
};

inline constexpr std::uint8_t padding_grey = 114;  // YOLOv5's

/// How to shrink an image: interpolated, as for detection and training, or as the mean over the
/// area that each pixel covers, as `exportloss train` and `val` shrink images without augmentation.
enum class Shrink { linear, area };

/// Puts an image onto a grey canvas and writes it as a graph takes it, (3, height, width), to
/// `out`, which has room for 3 * height * width bytes. The pixels are those of the Python package.
///
/// Throws Error: the image is not (H, W, 3), or a side is below 1.
void place_image(const Image& image, const Letterbox& box, std::uint8_t* out,
                 Shrink shrink = Shrink::linear, std::uint8_t grey = padding_grey);

}  // namespace exportloss
