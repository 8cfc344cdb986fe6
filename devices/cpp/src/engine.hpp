// ONNX Runtime, opened quietly, with its errors as ours.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <map>
#include <string>
#include <utility>

#include "exportloss/bytes.hpp"
#include "exportloss/error.hpp"
#include "exportloss/manifest.hpp"
#include "exportloss/session.hpp"

namespace exportloss {

/// Type and shape of an input or output of a graph.
struct Signature {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  Shape shape;
};

using Signatures = std::map<std::string, Signature>;

/// Calls a function of ONNX Runtime. Throws Error in place of its exceptions; `where` says what
/// was tried.
template <class Call>
auto guarded(const std::string& where, Call&& call) {
  try {
    return std::forward<Call>(call)();
  } catch (const Ort::Exception& error) {
    throw Error(text(where, ": ", error.what()));
  }
}

/// Returns ONNX Runtime's environment, which sends nothing. It is one per process, and lives as
/// long as any of these.
Ort::Env make_environment();

/// Opens a graph on the CPU, or where `options.configure` puts it.
Ort::Session open_graph(Ort::Env& env, ByteView content, const std::string& where,
                        const EngineOptions& options);

Signatures inputs_of(const Ort::Session& session);
Signatures outputs_of(const Ort::Session& session);

/// Checks that values of a graph have the expected types and shapes. Throws Error.
void check_signatures(const Signatures& expected, const Signatures& found,
                      const std::string& where);

/// Returns a tensor in memory of ONNX Runtime.
Ort::Value make_tensor(const Signature& signature);

}  // namespace exportloss
