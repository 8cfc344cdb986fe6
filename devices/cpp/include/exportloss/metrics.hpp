// Precision, recall and average precision of detections, with COCO's numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "exportloss/nms.hpp"

namespace exportloss {

/// A true object of an image: its class, and its corners in pixels.
struct TrueBox {
  double category = 0;
  double x1 = 0;
  double y1 = 0;
  double x2 = 0;
  double y2 = 0;
};

/// Metrics of detections, means over the classes that occur in the labels; all 0 if none does.
struct Metrics {
  double precision = 0;         // at IoU 0.5 and the confidence below
  double recall = 0;            // at the same
  double map50 = 0;             // mean average precision at IoU 0.5
  double map50_95 = 0;          // mean over IoU 0.5, 0.55, ..., 0.95
  double confidence = 0;        // at which the mean F1 of the classes is best
  std::vector<double> ap50_95;  // per class of the data set; NaN for one without objects
};

/// Collects the detections of images one by one, and computes their metrics as pycocotools does.
class MetricsAccumulator {
 public:
  static constexpr std::size_t thresholds = 10;  // IoU 0.5, 0.55, ..., 0.95

  /// `max_det`: detections that count per image and class, the most confident. Throws Error: a
  /// number is below 1.
  explicit MetricsAccumulator(std::size_t num_classes, std::size_t max_det = 300);

  /// Adds an image. Throws Error: a value is not finite, or a class is unknown.
  void add(const std::vector<Box>& detections, const std::vector<TrueBox>& labels);

  /// Returns the metrics of the images so far; more can be added afterwards.
  Metrics result() const;

 private:
  struct Found {
    double confidence = 0;
    std::array<bool, thresholds> right{};  // per IoU threshold
  };

  struct Curves {
    std::vector<double> precision, recall;  // above each of 1,000 confidences
  };

  Curves add_class(std::size_t category, Metrics& metrics) const;
  void match(const std::vector<Box>& detections, const std::vector<TrueBox>& labels);

  std::size_t max_det_;
  std::vector<std::size_t> objects_;       // per class
  std::vector<std::vector<Found>> found_;  // per class, in the order of the images
};

}  // namespace exportloss
