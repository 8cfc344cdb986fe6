#include "step_loop.hpp"

#include <algorithm>
#include <utility>

namespace exportloss {
namespace {

constexpr const char* new_prefix = "new_";

}  // namespace

StepLoop::StepLoop(Ort::Session session) : session_(std::move(session)) {
  const Signatures outputs = outputs_of(session_);
  for (const auto& [name, signature] : inputs_of(session_)) {
    if (outputs.count(new_prefix + name) == 0) {
      inputs_.emplace(name, make_tensor(signature));
    } else {
      state_.emplace(name, make_tensor(signature));
      spare_.emplace(name, make_tensor(signature));
    }
  }
  for (const auto& [name, signature] : outputs) {
    if (name.compare(0, 4, new_prefix) != 0) outputs_.emplace(name, make_tensor(signature));
  }
  directions_.push_back(bind(state_, spare_));
  directions_.push_back(bind(spare_, state_));
}

void StepLoop::run() {
  session_.Run(Ort::RunOptions(), directions_.front());
  std::swap(directions_.front(), directions_.back());
  std::swap(state_, spare_);
}

void StepLoop::set(const std::string& name, const float* values, std::size_t count) {
  std::copy_n(values, count, inputs_.at(name).GetTensorMutableData<float>());
}

void StepLoop::set(const std::string& name, bool value) {
  *inputs_.at(name).GetTensorMutableData<bool>() = value;
}

void StepLoop::set(const std::string& name, ByteView bytes) {
  std::copy_n(bytes.data(), bytes.size(), inputs_.at(name).GetTensorMutableData<std::uint8_t>());
}

float StepLoop::number(const std::string& name, std::size_t index) const {
  return outputs_.at(name).GetTensorData<float>()[index];
}

bool StepLoop::flag(const std::string& name) const {
  return *outputs_.at(name).GetTensorData<bool>();
}

const float* StepLoop::data(const std::string& name) const {
  return state_.at(name).GetTensorData<float>();
}

float* StepLoop::data(const std::string& name) {
  return state_.at(name).GetTensorMutableData<float>();
}

std::size_t StepLoop::size(const std::string& name) const {
  return state_.at(name).GetTensorTypeAndShapeInfo().GetElementCount();
}

Ort::IoBinding StepLoop::bind(const Buffers& from, const Buffers& to) {
  Ort::IoBinding binding(session_);
  for (const auto& [name, value] : inputs_) binding.BindInput(name.c_str(), value);
  for (const auto& [name, value] : from) binding.BindInput(name.c_str(), value);
  for (const auto& [name, value] : outputs_) binding.BindOutput(name.c_str(), value);
  for (const auto& [name, value] : to) binding.BindOutput((new_prefix + name).c_str(), value);
  return binding;
}

}  // namespace exportloss
