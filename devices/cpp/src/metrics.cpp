#include "exportloss/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exportloss/error.hpp"

namespace exportloss {
namespace {

using Curve = std::vector<double>;

constexpr std::size_t recalls = 101, confidences = 1000;
constexpr std::size_t smoothing = 50;  // half the window for the best F1, a tenth of confidence

// The n-th of `count` values from `first` to `last`, as numpy's linspace computes it.
double spaced(std::size_t index, std::size_t count, double first, double last) {
  if (index == count - 1) return last;
  return static_cast<double>(index) * ((last - first) / static_cast<double>(count - 1)) + first;
}

double threshold(std::size_t index) {
  return spaced(index, MetricsAccumulator::thresholds, 0.5, 0.95);
}

double overlap(const Box& one, const TrueBox& other) {
  if (double{one.category} != other.category) return 0;
  const double x1 = one.x1, y1 = one.y1, x2 = one.x2, y2 = one.y2;
  const double across = std::max(std::min(x2, other.x2) - std::max(x1, other.x1), 0.0);
  const double down = std::max(std::min(y2, other.y2) - std::max(y1, other.y1), 0.0);
  const double inter = across * down;
  const double area = (x2 - x1) * (y2 - y1) + (other.x2 - other.x1) * (other.y2 - other.y1);
  return inter > 0 ? inter / (area - inter) : 0;
}

// Values of the detections above each confidence threshold, interpolated linearly. `falling` are
// the detections' confidences; `at_none` is the value above the highest.
Curve above(const Curve& falling, const Curve& values, double at_none) {
  Curve curve(confidences, 0.0);
  if (falling.empty()) return curve;
  for (std::size_t index = 0; index < confidences; ++index) {
    const double wanted = spaced(index, confidences, 0.0, 1.0);
    // The detections whose confidence is at least the wanted one.
    const auto after = std::upper_bound(falling.begin(), falling.end(), wanted,
                                        [](double one, double other) { return one > other; });
    const auto count = static_cast<std::size_t>(after - falling.begin());
    if (count == 0) {
      curve[index] = at_none;
    } else if (count == falling.size() || falling[count - 1] == wanted) {
      curve[index] = values[count - 1];
    } else {
      const double slope =
          (values[count] - values[count - 1]) / (falling[count - 1] - falling[count]);
      curve[index] = slope * (falling[count - 1] - wanted) + values[count - 1];
    }
  }
  return curve;
}

// The mean over the recalls of the best precision at each of them or beyond.
double average_precision(const Curve& recall, Curve precision) {
  for (std::size_t index = precision.size(); index-- > 1;) {
    precision[index - 1] = std::max(precision[index - 1], precision[index]);
  }
  double total = 0;
  for (std::size_t index = 0; index < recalls; ++index) {
    const auto first =
        std::lower_bound(recall.begin(), recall.end(), spaced(index, recalls, 0.0, 1.0));
    if (first != recall.end()) total += precision[static_cast<std::size_t>(first - recall.begin())];
  }
  return total / static_cast<double>(recalls);
}

// The index of the highest mean over a window; the end values are repeated.
std::size_t best_of(const Curve& values) {
  std::size_t best = 0;
  double highest = -1;
  for (std::size_t index = 0; index < values.size(); ++index) {
    double total = 0;
    for (std::size_t step = 0; step <= 2 * smoothing; ++step) {
      const std::size_t place = std::max(index + step, smoothing) - smoothing;
      total += values[std::min(place, values.size() - 1)] / static_cast<double>(2 * smoothing + 1);
    }
    if (total > highest) {
      highest = total;
      best = index;
    }
  }
  return best;
}

}  // namespace

MetricsAccumulator::MetricsAccumulator(std::size_t num_classes, std::size_t max_det)
    : max_det_(max_det), objects_(num_classes), found_(num_classes) {
  if (num_classes < 1 || max_det < 1) {
    throw Error("num_classes or max_det is 0; expected at least 1");
  }
}

void MetricsAccumulator::add(const std::vector<Box>& detections,
                             const std::vector<TrueBox>& labels) {
  const auto check = [this](double category, std::initializer_list<double> values) {
    const bool is_known = category >= 0 && category < static_cast<double>(objects_.size()) &&
                          std::trunc(category) == category;
    if (!is_known) throw Error(text("class ", category, " is unknown"));
    for (const double value : values) {
      if (!std::isfinite(value)) throw Error("a box holds a value that is not finite");
    }
  };
  for (const Box& one : detections) {
    check(double{one.category}, {one.x1, one.y1, one.x2, one.y2, one.confidence});
  }
  for (const TrueBox& one : labels) check(one.category, {one.x1, one.y1, one.x2, one.y2});
  std::vector<Box> sorted = detections;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Box& one, const Box& other) {
    return one.confidence > other.confidence;
  });
  std::vector<std::size_t> counts(objects_.size());
  const auto is_beyond = [&](const Box& box) {
    return ++counts[static_cast<std::size_t>(box.category)] > max_det_;
  };
  std::vector<Box> counted;
  for (const Box& box : sorted) {
    if (!is_beyond(box)) counted.push_back(box);
  }
  match(counted, labels);
  for (const TrueBox& one : labels) ++objects_[static_cast<std::size_t>(one.category)];
}

// Each detection is matched to the unmatched object that it overlaps most, the later among equals.
void MetricsAccumulator::match(const std::vector<Box>& detections,
                               const std::vector<TrueBox>& labels) {
  std::array<std::vector<bool>, thresholds> taken;
  for (auto& flags : taken) flags.resize(labels.size());
  std::vector<double> overlaps(labels.size());
  for (const Box& box : detections) {
    Found found;
    found.confidence = box.confidence;
    for (std::size_t label = 0; label < labels.size(); ++label) {
      overlaps[label] = overlap(box, labels[label]);
    }
    for (std::size_t index = 0; index < thresholds; ++index) {
      std::size_t best = labels.size();
      double most = threshold(index);
      for (std::size_t label = 0; label < labels.size(); ++label) {
        if (!taken[index][label] && overlaps[label] >= most) {
          most = overlaps[label];
          best = label;
        }
      }
      if (best == labels.size()) continue;
      taken[index][best] = true;
      found.right[index] = true;
    }
    found_[static_cast<std::size_t>(box.category)].push_back(found);
  }
}

// Adds the metrics of one class that occurs in the labels; returns its curves at IoU 0.5.
MetricsAccumulator::Curves MetricsAccumulator::add_class(std::size_t category,
                                                         Metrics& metrics) const {
  std::vector<Found> found = found_[category];
  std::stable_sort(found.begin(), found.end(), [](const Found& one, const Found& other) {
    return one.confidence > other.confidence;
  });
  Curve falling;
  for (const Found& one : found) falling.push_back(one.confidence);
  Curves curves;
  double total = 0;
  for (std::size_t index = 0; index < thresholds; ++index) {
    Curve precision, recall;
    std::size_t right = 0;
    for (std::size_t place = 0; place < found.size(); ++place) {
      right += found[place].right[index];
      precision.push_back(static_cast<double>(right) / static_cast<double>(place + 1));
      recall.push_back(static_cast<double>(right) / static_cast<double>(objects_[category]));
    }
    const double average = average_precision(recall, precision);
    total += average;
    if (index > 0) continue;
    metrics.map50 += average;
    curves = {above(falling, precision, 1.0), above(falling, recall, 0.0)};
  }
  metrics.ap50_95[category] = total / static_cast<double>(thresholds);
  metrics.map50_95 += metrics.ap50_95[category];
  return curves;
}

Metrics MetricsAccumulator::result() const {
  Metrics metrics;
  metrics.ap50_95.assign(objects_.size(), std::numeric_limits<double>::quiet_NaN());
  std::vector<Curves> all;
  for (std::size_t category = 0; category < objects_.size(); ++category) {
    if (objects_[category] > 0) all.push_back(add_class(category, metrics));
  }
  if (all.empty()) return metrics;
  const auto classes = static_cast<double>(all.size());
  Curve f1(confidences, 0.0);
  for (const Curves& one : all) {
    for (std::size_t place = 0; place < confidences; ++place) {
      const double precision = one.precision[place], recall = one.recall[place];
      const double sum = precision + recall;
      if (sum > 0) f1[place] += 2 * precision * recall / sum / classes;
    }
  }
  const std::size_t best = best_of(f1);
  for (const Curves& one : all) {
    metrics.precision += one.precision[best] / classes;
    metrics.recall += one.recall[best] / classes;
  }
  metrics.map50 /= classes;
  metrics.map50_95 /= classes;
  metrics.confidence = spaced(best, confidences, 0.0, 1.0);
  return metrics;
}

}  // namespace exportloss
