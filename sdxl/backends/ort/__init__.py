"""The ort backend."""

from sdxl.backends.ort.stages import LOADS, NEEDS_TORCH, Config, missing, open, problems_of

__all__ = ["LOADS", "NEEDS_TORCH", "Config", "missing", "open", "problems_of"]
