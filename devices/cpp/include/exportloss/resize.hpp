// Resizing to OpenCV's pixels without OpenCV: its linear interpolation, and its mean over areas.
#pragma once

#include <cstdint>

#include "exportloss/bytes.hpp"
#include "exportloss/manifest.hpp"

namespace exportloss {

/// An RGB image, (H, W, 3), as raw bytes in row-major order.
struct Image {
  Size size;
  Bytes pixels;
};

/// Interpolates linearly between the four nearest pixels, in OpenCV's fixed-point arithmetic.
/// Throws Error: the image is not (H, W, 3), or a side is below 1.
Image resize_linear(const Image& image, Size size);

/// Shrinks to the mean over the area that each pixel covers, rounded. Throws Error: the image is
/// not (H, W, 3), a side is below 1, or the result is larger than the image.
Image resize_area(const Image& image, Size size);

/// Checks that sides are at least 1 and within their limit. Throws Error, which begins with `what`.
void check_size(Size size, const char* what);

}  // namespace exportloss
