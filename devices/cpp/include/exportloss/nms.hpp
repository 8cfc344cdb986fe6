// Non-maximum suppression: from a detector's rows to boxes.
#pragma once

#include <cstddef>
#include <vector>

namespace exportloss {

/// A detected object.
struct Box {
  float x1 = 0;  // corners in pixels
  float y1 = 0;
  float x2 = 0;
  float y2 = 0;
  float confidence = 0;  // objectness times class probability
  float category = 0;    // class
};

/// Thresholds of non-maximum suppression; the defaults are those of YOLOv5's `detect`. Its `val`
/// uses 0.001, 0.6 and, for more than one class, `multi_label`.
struct NmsOptions {
  float conf_thres = 0.25f;   // that objectness and confidence must exceed, in [0, 1]
  float iou_thres = 0.45f;    // IoU above which a less confident box is dropped, in [0, 1]
  std::size_t max_det = 300;  // most boxes kept per image, >= 1
  bool agnostic = false;      // whether boxes of different classes suppress each other
  bool multi_label = false;   // a box for every class above the threshold, not the best one only
  std::vector<std::size_t> classes;     // classes to keep; empty for all
  std::size_t max_candidates = 30'000;  // most boxes considered per image, >= 1
};

/// Keeps the most confident of overlapping boxes, as YOLOv5 does.
///
/// The algorithm is greedy: a box is dropped if its IoU with a more confident kept box exceeds
/// `iou_thres`. Among equal confidences the earlier row wins. Coordinates are clipped to 2^24
/// pixels from the origin. Rows with a NaN or infinity are no detections.
///
/// `rows` points to (`count`, 5 + `num_classes`) values: centre x, centre y, width, height in
/// pixels, objectness, class probabilities. Returns the boxes, the most confident first.
///
/// Throws Error: an option is out of range.
std::vector<Box> non_max_suppression(const float* rows, std::size_t count, std::size_t num_classes,
                                     const NmsOptions& options = {});

/// Checks that a detector's rows are finite, and so are its confidences: NaN would otherwise read
/// as "no detections". Throws Error, with the number of bad values.
void check_predictions(const float* rows, std::size_t count, std::size_t num_classes);

}  // namespace exportloss
