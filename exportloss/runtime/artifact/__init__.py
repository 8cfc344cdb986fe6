"""Files of artifacts, states and detectors, read and checked without the onnx package."""
