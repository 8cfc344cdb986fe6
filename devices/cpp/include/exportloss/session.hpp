// `TrainSession`: a detector in training on this device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "exportloss/bytes.hpp"
#include "exportloss/manifest.hpp"
#include "exportloss/state.hpp"
#include "exportloss/targets.hpp"

namespace Ort {
struct SessionOptions;
}

namespace exportloss {

/// Settings of ONNX Runtime.
struct EngineOptions {
  int threads = 1;  // within an operator, 1 to 1024; 0 for one per core. Each gives the same bits
  std::function<void(Ort::SessionOptions&)> configure;  // last word on a session, or nothing
};

/// Settings of a step.
struct StepOptions {
  std::array<double, 3> lr{};  // of weights, norms and biases, in [0, 1000]
  double momentum = 0.937;     // of SGD and RMSProp, or first beta of Adam and AdamW, in [0, 1)
  double weight_decay = 5e-4;  // in [0, 1000]
  double max_norm = std::numeric_limits<double>::infinity();  // of the gradients, > 0
  bool update = true;               // false only adds to the gradients, which the next update uses
  std::optional<double> ema_decay;  // in [0, 1]; nothing for YOLOv5's, see decay_after
  double loss_scale = 1024;         // for float16 artifacts, > 0
};

/// Terms of the loss, each times its gain, before the multiplication by the batch size.
struct LossTerms {
  float box = 0;
  float objectness = 0;
  float category = 0;
};

/// Result of a training step.
struct StepResult {
  float loss = 0;  // (box + objectness + class) * batch size
  LossTerms items;
  bool skipped = false;  // the step changed nothing, because its results would not be finite
};

/// A detector's rows for some images: centre x, centre y, width, height (pixels), objectness and
/// class probabilities.
struct Predictions {
  std::vector<float> values;  // (images, rows, 5 + classes)
  std::size_t rows = 0;       // per image; 0 if the model has no decoder
  std::size_t classes = 0;
};

/// Loss and predictions, computed with the running statistics.
struct Evaluation {
  float loss = 0;
  LossTerms items;
  Predictions predictions;
};

/// A detector in training, from the folder of a portable step.
///
/// The state stays in ONNX Runtime's memory: each vector has two buffers, a step reads one and
/// writes the other, and nothing is copied. A call that throws leaves the state as it was. One
/// session is used by one thread at a time.
///
/// Throws Error, from every function: the folder, a file or an argument is refused, or ONNX Runtime
/// fails. The message says what to do.
class TrainSession {
 public:
  /// Opens and checks a folder. On the first session of a process the environment variable
  /// ORT_DISABLE_TELEMETRY is set to 1 unless it has a value; do so before other threads start.
  explicit TrainSession(const std::filesystem::path& folder, const EngineOptions& options = {});
  ~TrainSession();
  TrainSession(TrainSession&&) noexcept;
  TrainSession& operator=(TrainSession&&) noexcept;

  const Manifest& manifest() const;

  /// Trains on a batch. `images` has (B, 3, H, W) bytes, RGB, as `place_image` writes them.
  StepResult step(ByteView images, const std::vector<TargetRow>& targets,
                  const StepOptions& options);

  /// Computes loss and predictions; changes nothing. `ema`: with the moving average.
  Evaluation evaluate(ByteView images, const std::vector<TargetRow>& targets, bool ema = false);

  std::int64_t updates() const;  // optimizer steps done
  std::int64_t skipped() const;  // optimizer steps skipped

  /// Returns a copy of the gradients added up since the last update, in the flat layout.
  std::vector<float> gradients() const;

  /// Returns a copy of the state.
  TrainState state() const;

  /// Takes over a state of the same model; the gradients added up are dropped.
  void load_state(const TrainState& state);

  /// Writes the state, atomically; the Python package opens it, too.
  void save(const std::filesystem::path& path) const;

  /// Continues from a state that `save`, or the Python package, wrote, bit for bit.
  void resume(const std::filesystem::path& path);

  /// Begins a new training from the weights of an earlier one, from its moving average if it has
  /// one. The optimizer starts afresh.
  void start_from(const std::filesystem::path& path);

  /// Writes the detector as a plain ONNX model: `images` (B, 3, H, W) float32 in [0, 1] in,
  /// `output0` (B, N, 5 + classes) out. `ema`: with the moving average.
  void export_inference(const std::filesystem::path& path, bool ema = false) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace exportloss
