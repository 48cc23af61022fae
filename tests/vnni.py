"""Tests of 8-bit kernels that only some processors have."""

import pytest
import torch

from sdxl.backends.torch import cpu
from sdxl.config.schema import Format

CPU = torch.device("cpu")
EXACT = all(
    any(kernel.name == "onednn_int8" for kernel in cpu.usable(kind, Format.int8, CPU))
    for kind in cpu.CANDIDATES
)
"""Whether oneDNN adds 8-bit products exactly here."""
needs_vnni = pytest.mark.skipif(not EXACT, reason="without VNNI oneDNN's 8-bit sums overflow")
