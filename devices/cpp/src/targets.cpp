#include "exportloss/targets.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "exportloss/error.hpp"

namespace exportloss {
namespace {

constexpr std::size_t most_named = 20;  // rows in a message

std::array<double, 6> values_of(const TargetRow& row) {
  return {row.image, row.category, row.x, row.y, row.width, row.height};
}

// What is wrong with a row; empty if nothing is.
std::string problem_of(const TargetRow& row, std::int64_t batch_size, std::int64_t num_classes) {
  constexpr const char* columns[] = {"image", "class", "x", "y", "width", "height"};
  const std::array<double, 6> values = values_of(row);
  for (std::size_t column = 0; column < values.size(); ++column) {
    const double value = values[column];
    const auto got = [&] { return text(columns[column], " is ", value); };
    if (!std::isfinite(value)) return text(got(), "; expected a finite number");
    if (column < 2) {
      const std::int64_t limit = column == 0 ? batch_size : num_classes;
      if (std::trunc(value) != value) return text(got(), "; expected a whole number");
      if (!(value >= 0 && value < static_cast<double>(limit))) {
        return text(got(), "; expected 0 to ", limit - 1);
      }
    } else if (!(value >= 0 && value <= 1)) {
      return text(got(), value < 0 ? ", negative" : ", over 1",
                  "; expected a fraction of the image, 0 to 1");
    }
  }
  return {};
}

void check_rows(const std::vector<TargetRow>& rows, std::int64_t batch_size,
                std::int64_t num_classes) {
  std::size_t bad = 0;
  std::string named;
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const std::string problem = problem_of(rows[index], batch_size, num_classes);
    if (problem.empty()) continue;
    if (++bad <= most_named) named += text("\n  row ", index, ": ", problem);
  }
  if (bad == 0) return;
  if (bad > most_named) named += text("\n  and ", bad - most_named, " more");
  throw Error(text(bad, " of ", rows.size(), " target rows cannot be trained on:", named),
              Reason::bad_rows);
}

// The indices of the rows of largest area, in the rows' order.
std::vector<std::size_t> largest(const std::vector<TargetRow>& rows, std::size_t count) {
  std::vector<std::size_t> kept(rows.size());
  std::iota(kept.begin(), kept.end(), std::size_t{0});
  const auto area = [&rows](std::size_t index) { return rows[index].width * rows[index].height; };
  std::stable_sort(kept.begin(), kept.end(),
                   [&area](std::size_t one, std::size_t other) { return area(one) > area(other); });
  kept.resize(std::min(count, kept.size()));
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace

PaddedTargets pad_targets(const std::vector<TargetRow>& rows, std::int64_t max_targets,
                          std::int64_t batch_size, std::int64_t num_classes, Overflow overflow) {
  if (max_targets < 1 || batch_size < 1 || num_classes < 1) {
    throw Error(text("max_targets is ", max_targets, ", batch_size ", batch_size, ", num_classes ",
                     num_classes, "; expected at least 1 of each"));
  }
  check_rows(rows, batch_size, num_classes);
  const auto capacity = static_cast<std::size_t>(max_targets);
  if (rows.size() > capacity && overflow == Overflow::raise) {
    throw Error(
        text("got ", rows.size(), " target rows, expected at most max_targets, ", max_targets,
             "; export with a larger max_targets, or drop the smallest boxes with "
             "Overflow::keep_largest"),
        Reason::too_many);
  }
  const std::vector<std::size_t> kept = largest(rows, capacity);
  PaddedTargets padded;
  padded.rows.assign(capacity * 6, 0.0f);
  padded.dropped = rows.size() - kept.size();
  auto out = padded.rows.begin();
  for (const std::size_t index : kept) {
    for (const double value : values_of(rows[index])) *out++ = static_cast<float>(value);
  }
  return padded;
}

}  // namespace exportloss
