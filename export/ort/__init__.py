"""ONNX Runtime's training artifacts."""
