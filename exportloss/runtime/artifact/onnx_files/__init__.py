"""ONNX files, read and completed without the onnx package, which a device does not have."""
