"""The trt backend."""

from sdxl.backends.trt.stages import LOADS, NEEDS_TORCH, Config, missing, open, problems_of

__all__ = ["LOADS", "NEEDS_TORCH", "Config", "missing", "open", "problems_of"]
