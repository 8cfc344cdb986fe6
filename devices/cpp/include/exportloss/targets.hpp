// Target rows, checked and padded to the number of rows that a graph takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace exportloss {

/// One labelled box of a batch. The box's centre and size are fractions of the image's.
struct TargetRow {
  double image = 0;     // index of the image in the batch
  double category = 0;  // class
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
};

/// What to do with more rows than a graph takes: throw, or drop the rows of smallest area (the
/// later one if areas are equal).
enum class Overflow { raise, keep_largest };

/// Padded target rows.
struct PaddedTargets {
  std::vector<float> rows;  // (max_targets, 6); the rows behind the targets are zero
  std::size_t dropped = 0;  // rows that did not fit
};

/// Checks target rows and pads them with zero rows, which match nothing. The kept rows stay in
/// their order: it decides which one wins a shared cell.
///
/// Throws Error: a row cannot be trained on (a number is not finite, an index is not whole or out
/// of range, a fraction is outside [0, 1]), with the bad rows and the reason for each; or there are
/// more rows than `max_targets`, with `Overflow::raise`.
PaddedTargets pad_targets(const std::vector<TargetRow>& rows, std::int64_t max_targets,
                          std::int64_t batch_size, std::int64_t num_classes,
                          Overflow overflow = Overflow::raise);

}  // namespace exportloss
