#include "exportloss/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "exportloss/error.hpp"

namespace exportloss {
namespace {

constexpr std::int64_t least_warmup = 100;  // batches, however short the run is
constexpr double largest_rate = 1000;
constexpr double pi = 3.14159265358979323846;

std::int64_t rounded(double value) { return static_cast<std::int64_t>(std::nearbyint(value)); }

// Linear interpolation from `first` at 0 to `last` at `end`, as numpy's interp computes it.
double interpolate(std::int64_t at, std::int64_t end, double first, double last) {
  if (at == 0) return first;
  if (at >= end) return last;
  const double slope = (last - first) / static_cast<double>(end);
  return slope * static_cast<double>(at) + first;
}

void check(const char* name, double value, double most) {
  if (!(value >= 0 && value <= most)) {
    throw Error(text(name, " is ", value, "; expected a number in [0, ", most, "]"));
  }
}

}  // namespace

Schedule::Schedule(Options options) : options_(std::move(options)) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  for (const auto& [name, value] :
       {std::pair("epochs", options_.epochs), std::pair("batches", options_.batches),
        std::pair("batch_size", options_.batch_size),
        std::pair("nominal_batch", options_.nominal_batch)}) {
    if (value < 1 || value > most) throw Error(text(name, " is ", value, "; expected at least 1"));
  }
  const TrainingConfig& config = options_.config;
  check("lr0", config.lr0, largest_rate);
  check("lrf", config.lrf, largest_rate);
  check("weight_decay", config.weight_decay, largest_rate);
  check("warmup_bias_lr", config.warmup_bias_lr, largest_rate);
  check("warmup_epochs", config.warmup_epochs, 1e6);
  for (const auto& [name, value] : {std::pair("momentum", config.momentum),
                                    std::pair("warmup_momentum", config.warmup_momentum)}) {
    if (!(value >= 0 && value < 1)) throw Error(text(name, " is ", value, "; expected in [0, 1)"));
  }
}

std::int64_t Schedule::warmup_batches() const {
  const double batches = options_.config.warmup_epochs * static_cast<double>(options_.batches);
  return std::max(rounded(batches), least_warmup);
}

std::int64_t Schedule::accumulate() const {
  const double batches =
      static_cast<double>(options_.nominal_batch) / static_cast<double>(options_.batch_size);
  return std::max<std::int64_t>(rounded(batches), 1);
}

double Schedule::weight_decay() const {
  return options_.config.weight_decay * static_cast<double>(options_.batch_size) *
         static_cast<double>(accumulate()) / static_cast<double>(options_.nominal_batch);
}

double Schedule::factor(std::int64_t epoch) const {
  const double lrf = options_.config.lrf;
  const double done = static_cast<double>(epoch) / static_cast<double>(options_.epochs);
  if (options_.cosine) return (1 - std::cos(pi * done)) / 2 * (lrf - 1) + 1;
  return (1 - done) * (1 - lrf) + lrf;
}

std::vector<PlannedStep> Schedule::steps(std::int64_t epoch) const {
  std::vector<PlannedStep> planned;
  std::int64_t waiting = 0;  // batches whose gradients wait for an update
  for (std::int64_t index = 0; index < options_.batches; ++index) {
    planned.push_back(step(epoch, index));
    ++waiting;
    if (waiting >= planned.back().accumulate || index == options_.batches - 1) {
      planned.back().update = true;
      waiting = 0;
    }
  }
  return planned;
}

std::optional<std::int64_t> Schedule::epochs_done(std::int64_t updates) const {
  std::int64_t made = 0;
  for (std::int64_t epoch = 0; epoch <= options_.epochs; ++epoch) {
    if (made >= updates) return made == updates ? std::optional(epoch) : std::nullopt;
    for (const PlannedStep& planned : steps(epoch)) made += planned.update;
  }
  return std::nullopt;
}

// The warm-up aims at factor(epoch). After it, YOLOv5's scheduler sets the rates one epoch late:
// it steps when an epoch ends. The epoch in which the warm-up ends keeps the rates it aimed at.
PlannedStep Schedule::step(std::int64_t epoch, std::int64_t index) const {
  const TrainingConfig& config = options_.config;
  const std::int64_t end = warmup_batches();
  const bool warms_up = epoch * options_.batches <= end;
  double lr = config.lr0 * factor(warms_up ? epoch : epoch - 1);
  double bias_lr = lr, momentum = config.momentum;
  std::int64_t batches = accumulate();
  const std::int64_t iteration = epoch * options_.batches + index;
  if (iteration <= end) {
    bias_lr = interpolate(iteration, end, config.warmup_bias_lr, lr);
    lr = interpolate(iteration, end, 0.0, lr);
    // YOLOv5 interpolates the option `momentum`, which Adam and AdamW do not have.
    if (options_.optimizer != "adam" && options_.optimizer != "adamw") {
      momentum = interpolate(iteration, end, config.warmup_momentum, momentum);
    }
    const double target =
        static_cast<double>(options_.nominal_batch) / static_cast<double>(options_.batch_size);
    batches = std::max<std::int64_t>(rounded(interpolate(iteration, end, 1.0, target)), 1);
  }
  return {{lr, lr, bias_lr}, momentum, batches, false};
}

double decay_after(std::int64_t updates) {
  return -0.9999 * std::expm1(-static_cast<double>(updates) / 2000);
}

}  // namespace exportloss
