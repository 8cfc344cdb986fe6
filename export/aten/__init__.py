"""Translation of traced graphs of ATen operators to graphs of standard ONNX operators."""
