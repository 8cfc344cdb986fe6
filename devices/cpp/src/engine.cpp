#include "engine.hpp"

#include <cstdlib>

#include "exportloss/limits.hpp"

namespace exportloss {
namespace {

constexpr const char* telemetry = "ORT_DISABLE_TELEMETRY";

void keep_quiet() {
#if defined(_WIN32)
  if (std::getenv(telemetry) == nullptr) _putenv_s(telemetry, "1");
#else
  setenv(telemetry, "1", 0);
#endif
}

std::string described(const Signature& signature) {
  std::string shape;
  for (const std::int64_t side : signature.shape) shape += text(shape.empty() ? "" : ", ", side);
  return text("type ", static_cast<int>(signature.type), " (", shape, ")");
}

template <class Info, class Name>
Signatures signatures(std::size_t count, const Info& info, const Name& name) {
  Signatures found;
  for (std::size_t index = 0; index < count; ++index) {
    const Ort::TypeInfo type = info(index);
    Signature signature{ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
    if (type.GetONNXType() == ONNX_TYPE_TENSOR) {
      const auto tensor = type.GetTensorTypeAndShapeInfo();
      signature = {tensor.GetElementType(), tensor.GetShape()};
    }
    found.emplace(name(index), std::move(signature));
  }
  return found;
}

}  // namespace

Ort::Env make_environment() {
  keep_quiet();
  return guarded("ONNX Runtime cannot start",
                 [] { return Ort::Env(ORT_LOGGING_LEVEL_ERROR, "exportloss"); });
}

Ort::Session open_graph(Ort::Env& env, ByteView content, const std::string& where,
                        const EngineOptions& options) {
  if (options.threads < 0 || options.threads > limits::threads) {
    throw Error(text("threads is ", options.threads, "; expected 0 to ", limits::threads));
  }
  return guarded(text(where, " is not a graph that can be run"), [&] {
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(options.threads);
    settings.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    settings.DisableMemPattern();  // on the CPU they use 1.5x the memory and are no faster
    if (options.configure) options.configure(settings);
    return Ort::Session(env, content.data(), content.size(), settings);
  });
}

Signatures inputs_of(const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  return signatures(
      session.GetInputCount(), [&](std::size_t index) { return session.GetInputTypeInfo(index); },
      [&](std::size_t index) {
        return std::string(session.GetInputNameAllocated(index, allocator).get());
      });
}

Signatures outputs_of(const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  return signatures(
      session.GetOutputCount(), [&](std::size_t index) { return session.GetOutputTypeInfo(index); },
      [&](std::size_t index) {
        return std::string(session.GetOutputNameAllocated(index, allocator).get());
      });
}

void check_signatures(const Signatures& expected, const Signatures& found,
                      const std::string& where) {
  for (const auto& [name, signature] : expected) {
    const auto place = found.find(name);
    if (place == found.end()) {
      throw Error(
          text(where, " has no ", excerpt(name), ", which the manifest implies; export again"));
    }
    if (place->second.type != signature.type || place->second.shape != signature.shape) {
      throw Error(text(where, ": ", excerpt(name), " is ", described(place->second),
                       ", but the manifest implies ", described(signature), "; export again"));
    }
  }
}

Ort::Value make_tensor(const Signature& signature) {
  Ort::AllocatorWithDefaultOptions allocator;
  return Ort::Value::CreateTensor(allocator, signature.shape.data(), signature.shape.size(),
                                  signature.type);
}

}  // namespace exportloss
