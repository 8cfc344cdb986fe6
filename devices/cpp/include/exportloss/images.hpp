// Images and labels from files: binary PPM (P6), and YOLO's text files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "exportloss/bytes.hpp"
#include "exportloss/letterbox.hpp"

namespace exportloss {

/// Reads a binary PPM image (P6, 8 bits per channel). Throws Error: it is missing or damaged.
Image read_ppm(const std::filesystem::path& path);

/// Parses the content of a PPM file; `where` is for messages. Throws Error.
Image parse_ppm(ByteView content, const std::string& where);

/// Reads a label file, `class x y width height` per line, the box as fractions of the image. No
/// file, and an empty one, mean an image without objects. Duplicate lines count once,
/// and values are rounded to float32.
///
/// Throws Error, which names the line: another number of columns (polygons are not read), a class
/// that is not one of `num_classes`, a fraction outside [0, 1], or a size of 0.
std::vector<Label> read_labels(const std::filesystem::path& path, std::int64_t num_classes);

/// Parses the content of a label file; `where` is for messages. Throws Error.
std::vector<Label> parse_labels(ByteView content, std::int64_t num_classes,
                                const std::string& where);

}  // namespace exportloss
