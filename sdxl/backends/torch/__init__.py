"""The torch backend."""

from sdxl.backends.torch.stages import (
    LOADS,
    NEEDS_TORCH,
    PROFILES,
    QUANTIZED_ONLY,
    Config,
    missing,
    open,
    problems_of,
)

__all__ = [
    "LOADS",
    "NEEDS_TORCH",
    "PROFILES",
    "QUANTIZED_ONLY",
    "Config",
    "missing",
    "open",
    "problems_of",
]
