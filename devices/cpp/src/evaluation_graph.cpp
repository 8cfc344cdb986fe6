#include "evaluation_graph.hpp"

#include <utility>

#include "engine.hpp"
#include "step_signatures.hpp"

namespace exportloss {

EvaluationGraph::EvaluationGraph(const Manifest& manifest, Ort::Session session,
                                 const std::string& where)
    : session_(std::move(session)),
      images_{manifest.batch_size, 3, manifest.image_size.height, manifest.image_size.width},
      targets_{manifest.max_targets, 6},
      vectors_{"balance"},
      classes_(manifest.names.size()) {
  check_eval_graph(manifest, session_, where);
  for (const auto& [name, layout] : detector_vectors(manifest)) vectors_.push_back(name);
  const Signatures outputs = outputs_of(session_);
  if (const auto found = outputs.find("output0"); found != outputs.end()) {
    decodes_ = true;
    const Shape& shape = found->second.shape;
    if (shape.size() != 3 || shape[0] != images_[0] ||
        shape[2] != 5 + static_cast<std::int64_t>(classes_)) {
      throw Error(text(where, " has other predictions than the manifest implies; export again"));
    }
  }
}

Evaluation EvaluationGraph::run(ByteView images, std::vector<float>& targets,
                                const std::function<const Ort::Value&(const std::string&)>& value) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  Ort::IoBinding binding(session_);
  // An input, which ONNX Runtime does not write to.
  auto* pixels = const_cast<std::uint8_t*>(images.data());
  binding.BindInput("images", Ort::Value::CreateTensor<std::uint8_t>(
                                  memory, pixels, images.size(), images_.data(), images_.size()));
  binding.BindInput("targets",
                    Ort::Value::CreateTensor<float>(memory, targets.data(), targets.size(),
                                                    targets_.data(), targets_.size()));
  for (const std::string& name : vectors_) binding.BindInput(name.c_str(), value(name));
  binding.BindOutput("loss", memory);
  binding.BindOutput("items", memory);
  if (decodes_) binding.BindOutput("output0", memory);
  session_.Run(Ort::RunOptions(), binding);
  const std::vector<Ort::Value> outputs = binding.GetOutputValues();
  const float* items = outputs.at(1).GetTensorData<float>();
  Evaluation result{*outputs.at(0).GetTensorData<float>(), {items[0], items[1], items[2]}, {}};
  result.predictions.classes = classes_;
  if (decodes_) {
    const Shape shape = outputs.at(2).GetTensorTypeAndShapeInfo().GetShape();
    const float* values = outputs.at(2).GetTensorData<float>();
    result.predictions.rows = static_cast<std::size_t>(shape.at(1));
    result.predictions.values.assign(values, values + elements(shape));
  }
  return result;
}

}  // namespace exportloss
