// `Manifest`: description of an artifacts folder, with the checksums of its files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "exportloss/bytes.hpp"
#include "exportloss/json.hpp"

namespace exportloss {

/// Height and width in pixels.
struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;

  friend bool operator==(Size one, Size other) {
    return one.height == other.height && one.width == other.width;
  }
  friend bool operator!=(Size one, Size other) { return !(one == other); }
};

using Shape = std::vector<std::int64_t>;

/// Returns the number of elements of a shape. Throws Error: a size is negative, or the number
/// does not fit into 48 bits.
std::size_t elements(const Shape& shape);

/// Place of a tensor in a flat vector.
struct PlacedTensor {
  std::string name;
  Shape shape;
  std::size_t offset = 0;  // elements
  std::size_t size = 0;    // elements
};

/// Tensors placed one after the other in a vector, each in C order.
struct FlatLayout {
  std::vector<PlacedTensor> tensors;
  std::size_t size = 0;  // elements of the vector
};

/// Size and SHA-256 of a file.
struct FileEntry {
  std::string sha256;
  std::int64_t size = 0;  // bytes
};

/// Description of the folder of a portable step.
struct Manifest {
  std::string model;               // name of the detector, such as yolov5n
  std::vector<std::string> names;  // of the classes, in class order
  std::vector<double> strides;     // (nl,) input pixels per cell
  Size image_size;
  std::int64_t batch_size = 0;
  std::int64_t max_targets = 0;
  std::string optimizer;   // sgd, adam, adamw or rmsprop
  bool ema = false;        // whether a moving average of the weights is kept
  std::string precision;   // float32, float16 or bfloat16
  std::int64_t opset = 0;  // largest of the graphs
  FlatLayout parameters;
  FlatLayout statistics;
  std::vector<std::string> optimizer_state;  // names of the optimizer's state tensors
  std::map<std::string, FileEntry> files;    // by name, without the manifest

  std::int64_t num_classes() const { return static_cast<std::int64_t>(names.size()); }
};

/// Reads and checks the manifest of a folder. Throws Error: it is missing, damaged, of another kind
/// than the portable step, or written by a newer exportloss.
Manifest read_manifest(const std::filesystem::path& folder);

/// Reads a flat layout, an array of names, shapes and offsets. Throws Error: there is a gap or an
/// overlap, a size below 1, or a name twice.
FlatLayout read_layout(const Json& values);

/// Checks the content of a manifest; `path` is for messages. Throws Error.
Manifest parse_manifest(ByteView content, const std::string& path);

}  // namespace exportloss
