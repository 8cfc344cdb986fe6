// YOLOv5's training schedule: rates, momentum and accumulation per batch.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace exportloss {

/// Rates of a training; the defaults are those of YOLOv5's `hyp.scratch-low.yaml`.
struct TrainingConfig {
  double lr0 = 0.01;             // learning rate at the start, in [0, 1000]
  double lrf = 0.01;             // learning rate at the end as a fraction of lr0
  double momentum = 0.937;       // or first beta of Adam and AdamW, in [0, 1)
  double weight_decay = 5e-4;    // of the weights, at the nominal batch
  double warmup_epochs = 3.0;    // >= 0; the warm-up lasts at least 100 batches
  double warmup_momentum = 0.8;  // at the start of the warm-up
  double warmup_bias_lr = 0.1;   // learning rate of the biases at the start of the warm-up
};

/// Settings of one batch.
struct PlannedStep {
  std::array<double, 3> lr{};  // of weights, norms and biases
  double momentum = 0;
  std::int64_t accumulate = 1;  // batches whose gradients YOLOv5 would add up per update
  bool update = false;          // whether the parameters are updated after this batch
};

/// Settings of every batch, as `exportloss train` chooses them.
///
/// Learning rates fall from `lr0` towards `lr0 * lrf` over the epochs, linearly or along a cosine.
/// In the first `warmup_epochs`, but at least 100 batches, the rates of weights and norms rise from
/// 0, that of the biases falls from `warmup_bias_lr`, the momentum rises from `warmup_momentum`
/// (except for Adam and AdamW), and the accumulation grows from 1. The gradients of about
/// `nominal_batch` images are added up per update; the last batch of an epoch always updates.
class Schedule {
 public:
  struct Options {
    std::int64_t epochs = 1;      // of the run, >= 1
    std::int64_t batches = 1;     // per epoch, >= 1
    std::int64_t batch_size = 1;  // images, >= 1
    TrainingConfig config;
    std::string optimizer = "sgd";    // of the manifest
    bool cosine = false;              // cosine instead of linear decay
    std::int64_t nominal_batch = 64;  // images per update, >= 1
  };

  /// Throws Error: a number is out of range.
  explicit Schedule(Options options);

  /// Number of batches of the warm-up, >= 100.
  std::int64_t warmup_batches() const;

  /// Decay of the weights, scaled to the number of images per update.
  double weight_decay() const;

  /// Returns the steps of an epoch, numbered from 0.
  std::vector<PlannedStep> steps(std::int64_t epoch) const;

  /// Returns the number of epochs that make `updates` updates; nothing if no whole number does.
  std::optional<std::int64_t> epochs_done(std::int64_t updates) const;

 private:
  double factor(std::int64_t epoch) const;
  std::int64_t accumulate() const;
  PlannedStep step(std::int64_t epoch, std::int64_t index) const;

  Options options_;
};

/// Returns YOLOv5's decay of the moving average in an update: 0.9999 * (1 - exp(-updates / 2000)).
/// `updates` counts this one, >= 1.
double decay_after(std::int64_t updates);

}  // namespace exportloss
