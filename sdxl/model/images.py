"""Pictures: from floats to bytes, checked, saved, laid out on a sheet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdxl.core.errors import StageError
from sdxl.model.pictures import load

if TYPE_CHECKING:
    import torch

AMPLIFIED = 8
"""By how much a sheet beside the baseline shows differences enlarged, around middle gray."""


def to_uint8(image: Any) -> np.ndarray:
    """Floats in [-1, 1], NHWC -> uint8 as diffusers rounds them.

    Raises `StageError` on NaN or Inf, which a clamp would turn into plain black.
    """
    values = np.asarray(image, np.float32)
    if not np.isfinite(values).all():
        raise _not_finite()
    return np.asarray((np.clip(values * 0.5 + 0.5, 0, 1) * 255).round(), np.uint8)


def on_device(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`to_uint8` where the picture is, without telling the host anything.

    Floats (B, 3, H, W) in [-1, 1] -> uint8 (B, H, W, 3), and whether all of them are finite (0-d).
    """
    import torch

    values = image.permute(0, 2, 3, 1).float()
    finite = values.isfinite().all()
    levels = values.mul(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_()
    return levels.to(torch.uint8).contiguous(), finite


def to_host(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """What `on_device` made of a batch's slices, together in host memory: pinned, from a GPU.

    Raises `StageError` on NaN or Inf. The one wait for the device is the last thing done.
    """
    import torch

    first = parts[0][0]
    cuda = first.is_cuda
    shape = (sum(len(part) for part, _ in parts), *first.shape[1:])
    # PyTorch keeps pinned memory for the next batch once nobody holds this one.
    out = torch.empty(shape, dtype=torch.uint8, pin_memory=cuda)
    at = 0
    for part, _ in parts:
        out[at : at + len(part)].copy_(part, non_blocking=cuda)
        at += len(part)
    if not bool(torch.stack([finite for _, finite in parts]).all()):
        raise _not_finite()
    return out.numpy()


def _not_finite() -> StageError:
    return StageError(
        "the picture has NaN or Inf: a component overflowed",
        "see precision in the configuration",
        "finite values",
        "precision.vae=fp32",
    )


def check(image: np.ndarray, index: int) -> None:
    """Refuse a picture of one colour, the usual face of a broken VAE or UNet."""
    if image.min() == image.max():
        raise StageError(
            f"the picture of prompt {index} is constant",
            f"every value is {int(image.flat[0])}",
            "a picture",
            "precision=fp32, or look at the weights",
        )


def save(image: np.ndarray, path: Path) -> str:
    """Write a PNG; returns the SHA-256 of the pixels (not of the file)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)
    return pixel_hash(image)


def pixel_hash(image: np.ndarray) -> str:
    """SHA-256 of the pixels: two runs drew the same picture if these agree."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def sheet(paths: Sequence[Path], captions: Sequence[str], target: Path, cell: int = 192) -> None:
    """Lay pictures out in rows of four, each with its caption underneath; writes one PNG."""
    from PIL import Image, ImageDraw

    columns, text_height, gap = min(4, len(paths)), 34, 8
    rows = -(-len(paths) // columns)
    step_x, step_y = cell + gap, cell + text_height + gap
    page = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(page)
    for place, (path, caption) in enumerate(zip(paths, captions, strict=True)):
        x, y = gap + place % columns * step_x, gap + place // columns * step_y
        page.paste(*_fitted(load(path), cell, x, y))
        draw.multiline_text((x, y + cell + 2), _wrap(caption, 31), fill="black")
    page.save(target)


def baseline_sheet(
    pairs: Sequence[tuple[Path, Path]], captions: Sequence[str], target: Path, cell: int = 192
) -> None:
    """One row for each pair: the baseline's picture, ours, and what differs, amplified; one PNG."""
    from PIL import Image, ImageDraw

    text_height, gap = 20, 8
    step_x, step_y = cell + gap, cell + text_height + gap
    page = Image.new("RGB", (3 * step_x + gap, len(pairs) * step_y + gap), "white")
    draw = ImageDraw.Draw(page)
    for row, ((theirs, ours), caption) in enumerate(zip(pairs, captions, strict=True)):
        one, other = load(theirs), load(ours)
        gray = 128 + AMPLIFIED * (other.astype(np.int32) - one)
        shown = (one, other, gray.clip(0, 255).astype(np.uint8))
        for column, image in enumerate(shown):
            page.paste(*_fitted(image, cell, gap + column * step_x, gap + row * step_y))
        words = _wrap(f"{caption} | unquantized, quantized, difference x{AMPLIFIED}", 96, 1)
        draw.text((gap, gap + row * step_y + cell + 2), words, fill="black")
    page.save(target)


def _fitted(image: np.ndarray, cell: int, x: int, y: int) -> tuple[Any, tuple[int, int]]:
    """The picture as large as a cell takes in its own aspect, and where it lies there."""
    from PIL import Image

    height, width = image.shape[:2]
    size = [max(1, round(cell * side / max(height, width))) for side in (width, height)]
    picture = Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BICUBIC)
    return picture, (x + (cell - size[0]) // 2, y + (cell - size[1]) // 2)


def _wrap(text: str, width: int, lines: int = 2) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="..."))
