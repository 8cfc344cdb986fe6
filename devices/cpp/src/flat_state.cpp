#include "flat_state.hpp"

#include <algorithm>

#include "step_signatures.hpp"

namespace exportloss {
namespace {

const std::string ema_prefix = "ema_", optimizer_prefix = "optimizer_";

void join(const FlatLayout& layout, const Tensors& tensors, float* vector) {
  for (const PlacedTensor& place : layout.tensors) {
    const auto& values = tensors.at(place.name).values;
    std::copy(values.begin(), values.end(), vector + place.offset);
  }
}

void split(const FlatLayout& layout, const float* vector, Tensors& tensors) {
  for (const PlacedTensor& place : layout.tensors) {
    const float* start = vector + place.offset;
    tensors[place.name] = {place.shape, {start, start + place.size}};
  }
}

void check_covered(const FlatLayout& layout, const Tensors& tensors, const std::string& source) {
  for (const PlacedTensor& place : layout.tensors) {
    const auto found = tensors.find(place.name);
    if (found == tensors.end() || found->second.shape != place.shape) {
      throw Error(text(source, " has no tensor ", excerpt(place.name, 200),
                       " of the shape that the manifest implies; export again"));
    }
  }
}

const Tensors& optimizer_tensors(const TrainState& state, const std::string& kept) {
  static const Tensors none;
  const auto found = state.optimizer.find(kept);
  return found == state.optimizer.end() ? none : found->second;
}

}  // namespace

void write_vectors(const Manifest& manifest, const TrainState& state, StepLoop& loop) {
  for (const auto& [name, layout] : detector_vectors(manifest)) {
    join(*layout, state.model, loop.data(name));
    if (manifest.ema) join(*layout, state.ema, loop.data(ema_prefix + name));
  }
  for (const std::string& kept : manifest.optimizer_state) {
    join(manifest.parameters, optimizer_tensors(state, kept), loop.data(optimizer_prefix + kept));
  }
  std::copy(state.balance.begin(), state.balance.end(), loop.data("balance"));
  *loop.data("updates") = static_cast<float>(state.updates);
  std::fill_n(loop.data("gradients"), manifest.parameters.size, 0.0f);
}

TrainState read_vectors(const Manifest& manifest, const StepLoop& loop) {
  TrainState state;
  for (const auto& [name, layout] : detector_vectors(manifest)) {
    split(*layout, loop.data(name), state.model);
    if (manifest.ema) split(*layout, loop.data(ema_prefix + name), state.ema);
  }
  for (const std::string& kept : manifest.optimizer_state) {
    split(manifest.parameters, loop.data(optimizer_prefix + kept), state.optimizer[kept]);
  }
  const float* balance = loop.data("balance");
  state.balance.assign(balance, balance + loop.size("balance"));
  state.updates = static_cast<std::int64_t>(*loop.data("updates"));
  return state;
}

void check_layout_covered(const Manifest& manifest, const TrainState& state,
                          const std::string& source) {
  for (const auto& [name, layout] : detector_vectors(manifest)) {
    check_covered(*layout, state.model, source);
    if (manifest.ema) check_covered(*layout, state.ema, source);
  }
  for (const std::string& kept : manifest.optimizer_state) {
    check_covered(manifest.parameters, optimizer_tensors(state, kept), source);
  }
  if (state.balance.size() != manifest.strides.size()) {
    throw Error(text(source, " has a balance of ", state.balance.size(), " levels, expected ",
                     manifest.strides.size(), "; export again"));
  }
}

Tensors frozen_tensors(const Manifest& manifest, const TrainState& state) {
  std::set<std::string> trained;
  for (const auto& [name, layout] : detector_vectors(manifest)) {
    for (const PlacedTensor& place : layout->tensors) trained.insert(place.name);
  }
  Tensors frozen;
  for (const auto& [name, tensor] : state.model) {
    if (trained.count(name) == 0) frozen.emplace(name, tensor);
  }
  return frozen;
}

}  // namespace exportloss
