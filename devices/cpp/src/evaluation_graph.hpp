// `eval_step.onnx`: loss and predictions with the running statistics.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <functional>
#include <string>
#include <vector>

#include "exportloss/session.hpp"

namespace exportloss {

class EvaluationGraph {
 public:
  /// Throws Error: the session's inputs and outputs are not what the manifest implies.
  EvaluationGraph(const Manifest& manifest, Ort::Session session, const std::string& where);

  /// Computes an evaluation. `targets` is (max_targets, 6), which ONNX Runtime does not write to;
  /// `value` returns the detector's vectors and the balance.
  Evaluation run(ByteView images, std::vector<float>& targets,
                 const std::function<const Ort::Value&(const std::string&)>& value);

 private:
  Ort::Session session_;
  Shape images_, targets_;
  std::vector<std::string> vectors_;
  std::size_t classes_ = 0;
  bool decodes_ = false;  // whether the graph has predictions
};

}  // namespace exportloss
