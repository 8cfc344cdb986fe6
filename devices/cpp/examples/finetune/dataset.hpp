// A folder of raw images, letterboxed once, in batches.
#pragma once

#include <cstdint>
#include <exportloss/exportloss.hpp>
#include <filesystem>
#include <string>
#include <vector>

/// An image on its canvas, and its labels.
struct Sample {
  std::string name;
  exportloss::Bytes canvas;  // (3, height, width)
  std::vector<exportloss::Label> labels;
};

/// Images and target rows of a batch.
struct Batch {
  exportloss::Bytes images;  // (B, 3, height, width)
  std::vector<exportloss::TargetRow> targets;
};

/// Reads every `.ppm` file of a folder, and the `.txt` file of labels beside it, in the order of
/// their names. Throws exportloss::Error: there is none, or one is damaged.
std::vector<Sample> read_samples(const std::filesystem::path& folder,
                                 const exportloss::Manifest& manifest);

/// Checks that no batch can have more boxes than the artifacts take, before any is trained.
/// Throws exportloss::Error.
void check_capacity(const std::vector<Sample>& samples, const exportloss::Manifest& manifest);

/// Returns the batches of an epoch: shuffled, half of the images mirrored, each image once, and
/// the last batch filled from the beginning. The same seed and epoch give the same batches.
std::vector<Batch> shuffled_batches(const std::vector<Sample>& samples,
                                    const exportloss::Manifest& manifest, std::uint64_t seed,
                                    std::int64_t epoch);

/// Returns mAP of a session on samples, as `exportloss val` computes it; with the moving average
/// where there is one.
exportloss::Metrics evaluate(exportloss::TrainSession& session, const std::vector<Sample>& samples);
