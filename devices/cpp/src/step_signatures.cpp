#include "step_signatures.hpp"

namespace exportloss {
namespace {

constexpr auto type_float = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto type_bool = ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;

const Signature scalar{type_float, {}};

Signature vector_of(std::size_t size) { return {type_float, {static_cast<std::int64_t>(size)}}; }

Signatures batch(const Manifest& manifest) {
  return {{"images",
           {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
            {manifest.batch_size, 3, manifest.image_size.height, manifest.image_size.width}}},
          {"targets", {type_float, {manifest.max_targets, 6}}},
          {"balance", vector_of(manifest.strides.size())}};
}

Signatures settings(const Manifest& manifest) {
  Signatures found{{"learning_rates", vector_of(3)},
                   {"momentum", scalar},
                   {"weight_decay", scalar},
                   {"max_norm", scalar},
                   {"update", {type_bool, {}}}};
  if (manifest.ema) found["ema_decay"] = scalar;
  if (manifest.precision == "float16") found["loss_scale"] = scalar;
  return found;
}

Signatures state(const Manifest& manifest) {
  Signatures found{{"updates", scalar},
                   {"balance", vector_of(manifest.strides.size())},
                   {"gradients", vector_of(manifest.parameters.size)}};
  for (const auto& [name, layout] : detector_vectors(manifest)) {
    found[name] = vector_of(layout->size);
    if (manifest.ema) found["ema_" + name] = vector_of(layout->size);
  }
  for (const std::string& kept : manifest.optimizer_state) {
    found["optimizer_" + kept] = vector_of(manifest.parameters.size);
  }
  return found;
}

void check_inputs(const Signatures& expected, const Ort::Session& session,
                  const std::string& where) {
  const Signatures found = inputs_of(session);
  check_signatures(expected, found, where);
  for (const auto& [name, signature] : found) {
    if (expected.count(name) == 0) {
      throw Error(text(where, " has an input ", excerpt(name),
                       ", which this version does not provide; export again"));
    }
  }
}

}  // namespace

std::map<std::string, const FlatLayout*> detector_vectors(const Manifest& manifest) {
  std::map<std::string, const FlatLayout*> found{{"parameters", &manifest.parameters}};
  if (manifest.statistics.size > 0) found["statistics"] = &manifest.statistics;
  return found;
}

void check_train_graph(const Manifest& manifest, const Ort::Session& session,
                       const std::string& where) {
  Signatures inputs = batch(manifest);
  inputs.merge(settings(manifest));
  inputs.merge(state(manifest));
  check_inputs(inputs, session, where);
  Signatures outputs{{"loss", scalar}, {"items", vector_of(3)}, {"skipped", {type_bool, {}}}};
  for (const auto& [name, signature] : state(manifest)) outputs["new_" + name] = signature;
  check_signatures(outputs, outputs_of(session), where);
}

void check_eval_graph(const Manifest& manifest, const Ort::Session& session,
                      const std::string& where) {
  Signatures inputs = batch(manifest);
  for (const auto& [name, layout] : detector_vectors(manifest)) {
    inputs[name] = vector_of(layout->size);
  }
  check_inputs(inputs, session, where);
  check_signatures({{"loss", scalar}, {"items", vector_of(3)}}, outputs_of(session), where);
}

}  // namespace exportloss
