// A trained detector: images in, boxes out.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "exportloss/bytes.hpp"
#include "exportloss/letterbox.hpp"
#include "exportloss/manifest.hpp"
#include "exportloss/nms.hpp"
#include "exportloss/session.hpp"

namespace exportloss {

/// A detector for inference, from an ONNX file or a training session.
class Detector {
 public:
  /// Opens a file that `TrainSession::export_inference`, the Python package or YOLOv5's
  /// `export.py` wrote: one input (B, 3, H, W) float32 in [0, 1], and a first output
  /// (B, N, 5 + classes). Throws Error: the file is damaged, or no such detector.
  explicit Detector(const std::filesystem::path& path, const EngineOptions& options = {});

  /// Uses the detector of a session, with its running statistics and its state at each call. The
  /// session has to outlive the detector and may not be moved.
  explicit Detector(TrainSession& session, bool ema = false);

  std::optional<std::size_t> batch_size() const { return batch_size_; }  // images at once, if fixed
  std::optional<Size> image_size() const { return image_size_; }         // if fixed

  /// Returns decoded rows for `count` images, (count, 3, size.height, size.width) bytes.
  Predictions predict(ByteView images, std::size_t count, Size size) const;

  /// Finds objects in images of any size; they are letterboxed to `size`, or to the detector's
  /// own. Returns the boxes per image, in its pixels, the most confident first.
  /// Throws Error: a setting is out of range or does not suit the detector, or the detector gives
  /// numbers that are not finite.
  std::vector<std::vector<Box>> detect(const std::vector<Image>& images,
                                       const NmsOptions& options = {},
                                       std::optional<Size> size = std::nullopt) const;

 private:
  std::function<Predictions(ByteView, std::size_t, Size)> predict_;
  std::optional<std::size_t> batch_size_;
  std::optional<Size> image_size_;
};

}  // namespace exportloss
