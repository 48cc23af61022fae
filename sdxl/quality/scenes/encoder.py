"""Small networks that look at scenes: features of a whole picture, and a detector of solids."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdxl.model.scenes.world import COLOURS, MATERIALS, SHAPES, SIZES

FEATURES = 128
GRID = 16
"""Cells of the detector along each side of a picture."""
_WIDTHS = (24, 48, 96, 128)
_FIELDS = {"there": 1, "colour": len(COLOURS), "shape": len(SHAPES), "size": len(SIZES),
           "material": len(MATERIALS), "place": 2}  # fmt: skip


def _block(inputs: int, outputs: int, stride: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


def resized(pictures: Tensor, side: int) -> Tensor:
    """Square pictures with `side` pixels along each side."""
    if pictures.shape[-1] == side:
        return pictures
    return functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


class PictureEncoder(nn.Module):
    """Pictures (B, 3, 64, 64) in -1..1 -> features (B, 128), the image half of the pair."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_block(a, b, 2) for a, b in pairwise((3, *_WIDTHS))))
        self.out = nn.Linear(_WIDTHS[-1] * 16, FEATURES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of whole pictures; other sizes than 64 pixels are resized."""
        if pictures.shape[-1] != 64:
            pictures = functional.interpolate(pictures, (64, 64), mode="area")
        features: Tensor = self.out(self.blocks(pictures).flatten(1))
        return features


@dataclass(frozen=True)
class Found:
    """A solid that the detector sees; `x` and `y` are its place on the table."""

    colour: str
    shape: str
    size: str
    material: str
    x: float
    y: float


class Detector(nn.Module):
    """Pictures (B, 3, 128, 128) in -1..1 -> what stands in each of 16 x 16 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(3, 16, 2), _block(16, 32, 2), _block(32, 64, 2), _block(64, 96, 1),
            _block(96, 96, 1, 2), _block(96, 96, 1, 4), _block(96, 96, 1, 2), _block(96, 96, 1),
        )  # fmt: skip
        self.out = nn.Conv2d(96, sum(_FIELDS.values()), 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits by field (B, n, 16, 16); `place` is in table units. Other sizes are resized."""
        pictures = resized(pictures, 8 * GRID)
        parts = self.out(self.blocks(pictures)).split(list(_FIELDS.values()), dim=1)
        return dict(zip(_FIELDS, parts, strict=True))

    @torch.no_grad()
    def find(self, pictures: Tensor) -> list[list[Found]]:
        """The solids of each picture: peaks around which at least half a solid is expected.

        One whose middle lies on the border of two cells gives each of them a part of its chance.
        """
        out = {name: values.cpu() for name, values in self.forward(pictures).items()}
        there = out["there"].sigmoid()
        expected = 9 * functional.avg_pool2d(there, 3, 1, 1)
        peak = (expected > 0.5) & (there == functional.max_pool2d(there, 3, 1, 1))
        found: list[list[Found]] = [[] for _ in pictures]
        for row, _, y, x in peak.nonzero().tolist():
            at = {name: values[row, :, y, x] for name, values in out.items()}
            place = at["place"].tolist()
            found[row].append(
                Found(
                    COLOURS[int(at["colour"].argmax())], SHAPES[int(at["shape"].argmax())],
                    SIZES[int(at["size"].argmax())], MATERIALS[int(at["material"].argmax())],
                    *place,
                )
            )  # fmt: skip
        return found
