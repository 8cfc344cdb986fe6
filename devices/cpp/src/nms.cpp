#include "exportloss/nms.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exportloss/error.hpp"

namespace exportloss {
namespace {

constexpr float farthest = 16777216.0f;  // pixels, 2^24; beyond every canvas

void check_options(const NmsOptions& options, std::size_t num_classes) {
  const auto check = [](const char* name, float value) {
    if (!(value >= 0 && value <= 1)) {
      throw Error(text(name, " is ", value, "; expected a number in [0, 1]"));
    }
  };
  check("conf_thres", options.conf_thres);
  check("iou_thres", options.iou_thres);
  if (options.max_det < 1 || options.max_candidates < 1) {
    throw Error("max_det or max_candidates is 0; expected at least 1");
  }
  for (const std::size_t one : options.classes) {
    if (one >= num_classes) {
      throw Error(text("classes has ", one, "; expected numbers below ", num_classes));
    }
  }
}

Box box_of(const float* row, float confidence, std::size_t category) {
  const auto clipped = [](float value) { return std::clamp(value, -farthest, farthest); };
  const float across = row[2] / 2, down = row[3] / 2;
  return {clipped(row[0] - across),
          clipped(row[1] - down),
          clipped(row[0] + across),
          clipped(row[1] + down),
          confidence,
          static_cast<float>(category)};
}

// The boxes that exceed the threshold, the most confident first.
std::vector<Box> candidates(const float* rows, std::size_t count, std::size_t num_classes,
                            const NmsOptions& options) {
  std::vector<bool> wanted(num_classes, options.classes.empty());
  for (const std::size_t one : options.classes) wanted[one] = true;
  std::vector<Box> found;
  std::vector<float> confidence(num_classes);
  for (std::size_t index = 0; index < count; ++index) {
    const float* row = rows + index * (5 + num_classes);
    const auto is_finite = [](float value) { return std::isfinite(value); };
    if (!(row[4] > options.conf_thres) || !std::all_of(row, row + 5 + num_classes, is_finite)) {
      continue;
    }
    std::transform(row + 5, row + 5 + num_classes, confidence.begin(),
                   [row](float probability) { return row[4] * probability; });
    const auto best = std::max_element(confidence.begin(), confidence.end());
    for (std::size_t category = 0; category < num_classes; ++category) {
      const bool is_best = confidence.begin() + static_cast<std::ptrdiff_t>(category) == best;
      if (confidence[category] > options.conf_thres && (options.multi_label || is_best) &&
          wanted[category]) {
        found.push_back(box_of(row, confidence[category], category));
      }
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Box& one, const Box& other) {
    return one.confidence > other.confidence;
  });
  found.resize(std::min(found.size(), options.max_candidates));
  return found;
}

// Whether two boxes overlap too much for both to stay. Multiplied out, so that two boxes without
// area do not divide 0 by 0.
bool overlap(const Box& one, const Box& other, const NmsOptions& options) {
  if (!options.agnostic && one.category != other.category) return false;
  const float across = std::max(std::min(one.x2, other.x2) - std::max(one.x1, other.x1), 0.0f);
  const float down = std::max(std::min(one.y2, other.y2) - std::max(one.y1, other.y1), 0.0f);
  const float inter = across * down;
  const float area = (one.x2 - one.x1) * (one.y2 - one.y1);
  const float other_area = (other.x2 - other.x1) * (other.y2 - other.y1);
  return inter > options.iou_thres * (area + other_area - inter);
}

}  // namespace

std::vector<Box> non_max_suppression(const float* rows, std::size_t count, std::size_t num_classes,
                                     const NmsOptions& options) {
  if (num_classes < 1) throw Error("the detector has no classes; expected at least 1");
  check_options(options, num_classes);
  std::vector<Box> kept;
  for (const Box& box : candidates(rows, count, num_classes, options)) {
    const bool is_hidden = std::any_of(kept.begin(), kept.end(), [&](const Box& stronger) {
      return overlap(box, stronger, options);
    });
    if (!is_hidden) kept.push_back(box);
    if (kept.size() >= options.max_det) break;
  }
  return kept;
}

void check_predictions(const float* rows, std::size_t count, std::size_t num_classes) {
  const std::size_t columns = 5 + num_classes;
  std::size_t bad = 0, bad_confidences = 0;
  for (std::size_t index = 0; index < count; ++index) {
    const float* row = rows + index * columns;
    for (std::size_t column = 0; column < columns; ++column) bad += !std::isfinite(row[column]);
    const double best = *std::max_element(row + 5, row + columns);
    bad_confidences += row[4] * best > double{std::numeric_limits<float>::max()};
  }
  if (bad > 0) {
    throw Error(text("the detector gives ", bad, " of ", count * columns,
                     " numbers that are not finite; its weights are damaged, or too large: export "
                     "it again, or train it again"));
  }
  if (bad_confidences > 0) {
    throw Error(
        text("the detector gives ", bad_confidences, " of ", count,
             " confidences that are not finite; its outputs lack a sigmoid: export it again"));
  }
}

}  // namespace exportloss
