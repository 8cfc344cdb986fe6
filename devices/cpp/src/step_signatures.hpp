// Inputs and outputs of the graphs of a portable step, as its manifest implies them.
#pragma once

#include "engine.hpp"

namespace exportloss {

/// Flat vectors of the detector: `parameters`, and `statistics` if any are trained.
std::map<std::string, const FlatLayout*> detector_vectors(const Manifest& manifest);

/// Checks the signature of `train_step.onnx`. Throws Error.
void check_train_graph(const Manifest& manifest, const Ort::Session& session,
                       const std::string& where);

/// Checks the signature of `eval_step.onnx`. Throws Error.
void check_eval_graph(const Manifest& manifest, const Ort::Session& session,
                      const std::string& where);

}  // namespace exportloss
