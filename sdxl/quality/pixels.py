"""Pictures as metrics' networks take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def unit(images: Any, device: Any = "cpu") -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in 0..1."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255
