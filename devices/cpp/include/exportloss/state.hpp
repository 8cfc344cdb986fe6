// The state of a training, which any kind of artifact and the Python package read as well.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "exportloss/bytes.hpp"
#include "exportloss/manifest.hpp"
#include "exportloss/tensor_file.hpp"

namespace exportloss {

/// A float32 tensor in row-major order.
struct Tensor {
  Shape shape;
  std::vector<float> values;
};

using Tensors = std::map<std::string, Tensor>;

/// State of a training: everything that a step changes.
struct TrainState {
  Tensors model;                             // parameters and statistics by the model's own names
  std::map<std::string, Tensors> optimizer;  // per state tensor, such as momentum, by parameter
  Tensors ema;                 // moving average of the trained tensors; empty if none is kept
  std::vector<float> balance;  // (nl,) objectness weights
  std::int64_t updates = 0;    // optimizer steps done
  std::int64_t skipped = 0;    // optimizer steps skipped, because they would not be finite
  std::map<std::string, std::string> description;  // of the weights: model, names, anchors, strides
};

/// Reads a state. Throws Error: the file is missing, damaged, not a training state, or written by a
/// newer exportloss.
TrainState load_state(const std::filesystem::path& path);

/// Reads a state from the content of a file; `where` is for messages. Throws Error.
TrainState parse_state(ByteView content, const std::string& where);

/// Writes a state as safetensors, atomically, in format 2. Throws Error: it cannot be written.
void save_state(const std::filesystem::path& path, const TrainState& state);

/// Checks the values of a state: tensors are finite, variances and means of squares are not
/// negative, counts are not negative. Throws Error, which names the tensor.
void check_values(const TrainState& state, const std::string& source);

/// Checks that a state has the tensors of another, of the same shapes, and no others. A moving
/// average is ignored if `own` has none. Throws Error, which names the tensor.
void check_same_model(const TrainState& state, const TrainState& own, const std::string& source);

/// Returns the SHA-256 over metadata and tensors that a state of format 2 carries; the entry
/// `sha256` of the metadata is not part of it.
std::string state_digest(const TensorFile& file);

}  // namespace exportloss
