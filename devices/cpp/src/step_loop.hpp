// A graph run repeatedly on its own outputs.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <map>
#include <string>
#include <vector>

#include "engine.hpp"

namespace exportloss {

/// Runs a session whose outputs `new_...` are inputs of its next run.
///
/// Each tensor of the state has two buffers. A run reads one set and writes the other, so nothing
/// is copied, and a run that fails changes nothing.
class StepLoop {
 public:
  explicit StepLoop(Ort::Session session);

  /// Runs once; the inputs were filled with `set`.
  void run();

  /// Copies values into an input that is not of the state.
  void set(const std::string& name, const float* values, std::size_t count);
  void set(const std::string& name, bool value);
  void set(const std::string& name, ByteView bytes);

  /// Returns an output that is not of the state, after a run.
  float number(const std::string& name, std::size_t index = 0) const;
  bool flag(const std::string& name) const;

  /// Returns a tensor of the state, which the next run but one overwrites.
  const Ort::Value& value(const std::string& name) const { return state_.at(name); }

  /// Returns the elements of a vector of the state.
  const float* data(const std::string& name) const;
  float* data(const std::string& name);
  std::size_t size(const std::string& name) const;

 private:
  using Buffers = std::map<std::string, Ort::Value>;

  Ort::IoBinding bind(const Buffers& from, const Buffers& to);

  Ort::Session session_;
  Buffers inputs_, outputs_, state_, spare_;
  std::vector<Ort::IoBinding> directions_;  // the next run's first
};

}  // namespace exportloss
