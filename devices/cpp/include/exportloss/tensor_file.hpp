// Safetensors files: eight bytes with the length of the header; the header, in JSON, with type,
// shape and offsets per tensor and texts under `__metadata__`; the values.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "exportloss/bytes.hpp"
#include "exportloss/manifest.hpp"

namespace exportloss {

/// A tensor in a file, or to write into one.
struct StoredTensor {
  std::string dtype;  // such as F32
  Shape shape;
  ByteView content;  // values, little-endian, in row-major order
};

/// Content of a safetensors file; the tensors are views of its bytes.
struct TensorFile {
  std::map<std::string, std::string> about;  // texts of the metadata
  std::map<std::string, StoredTensor> tensors;
};

/// Parses the content of a file, which has to outlive the result; `where` is for messages. Throws
/// Error: the content is not safetensors.
TensorFile parse_tensor_file(ByteView content, const std::string& where);

/// Writes a file, atomically; tensors and metadata are sorted by name, and the header is spelled
/// as the Python package spells it. Throws Error: the file cannot be written.
void write_tensor_file(const std::filesystem::path& path, const TensorFile& file);

/// Returns what `write_tensor_file` puts before the values.
Bytes tensor_file_header(const TensorFile& file);

}  // namespace exportloss
