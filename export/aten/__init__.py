"""ATen operators in standard ONNX operators: a traced graph in, an ONNX graph out."""
