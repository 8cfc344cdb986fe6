// ONNX files, checked before an engine opens them, and weights written into them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "exportloss/bytes.hpp"

namespace exportloss {

/// Checks that a serialized model is complete and refers to no other file: the file would choose
/// the path, `../../etc/passwd` included. Nodes of code compiled for a device (EPContext), which
/// may be in another file, are refused as well. Throws Error: `where` and the reason.
void check_model(ByteView model, const std::string& where);

/// Returns the opset of the `ai.onnx` domain of a model; 0 if it has none.
std::int64_t opset_of(ByteView model);

/// Returns a model with float32 vectors added to its graph as initializers. Inputs of those names
/// are removed: runtimes neither fold nor repack an initializer that the caller may replace.
/// Throws Error: `model` is not a message.
///
/// Protocol buffers merge: appending a model of nothing but initializers adds them to the graph.
Bytes with_initializers(ByteView model, const std::map<std::string, ByteView>& vectors);

/// Returns the bytes to prepend to a model for it to carry its own SHA-256, as an entry of its
/// metadata.
Bytes model_checksum(ByteView model);

/// Returns whether an ONNX file matches its checksum; true for a file without one.
bool model_is_whole(ByteView content);

}  // namespace exportloss
