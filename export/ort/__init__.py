"""Export of ONNX Runtime's training artifacts."""
