// The named tensors of a state, in the flat vectors of a loop and back.
#pragma once

#include <set>
#include <string>

#include "exportloss/manifest.hpp"
#include "exportloss/state.hpp"
#include "step_loop.hpp"

namespace exportloss {

/// Copies a state into the vectors of a loop, and sets its gradients to zero. The state has been
/// checked against the manifest.
void write_vectors(const Manifest& manifest, const TrainState& state, StepLoop& loop);

/// Copies the trained tensors out of the vectors of a loop, with counters but without frozen
/// tensors.
TrainState read_vectors(const Manifest& manifest, const StepLoop& loop);

/// Checks that a state has a tensor of the right shape for each place of the layout. Throws Error.
void check_layout_covered(const Manifest& manifest, const TrainState& state,
                          const std::string& source);

/// Returns the tensors that no step changes.
Tensors frozen_tensors(const Manifest& manifest, const TrainState& state);

}  // namespace exportloss
