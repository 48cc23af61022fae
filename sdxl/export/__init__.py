"""ONNX graphs, quantized graphs and TensorRT engines, each an artifact in the store."""
