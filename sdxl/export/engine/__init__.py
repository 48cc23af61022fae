"""TensorRT engines from ONNX graphs, by either of the two libraries."""

from sdxl.export.engine.build import build, get, key, settings

__all__ = ["build", "get", "key", "settings"]
