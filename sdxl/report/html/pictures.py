"""The picture grid: prompts down, settings across, the difference to the baseline over each."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdxl.core.errors import UserError
from sdxl.model.pictures import load
from sdxl.report.cell import Cell

THUMB = 224
"""Longest side of an embedded picture in pixels."""
GAIN = 4
"""Differences are shown this many times as large, else the eye sees black."""
COLUMNS = 12
QUALITY = 72


@dataclass(frozen=True)
class Tile:
    """A cell's picture of one prompt and its difference to the baseline's, as data URIs."""

    cell: Cell
    picture: str = ""
    difference: str = ""
    note: str = ""


@dataclass
class Grid:
    """Prompts down, settings across."""

    cells: list[Cell]
    rows: list[tuple[str, list[Tile]]]  # a caption, and a tile for each cell
    more: str  # what was left out, in words

    @property
    def compared(self) -> bool:
        """Is there a baseline to compare with?"""
        return any(cell.baseline for cell in self.cells)


def grid(cells: Sequence[Cell], prompts: int) -> Grid:
    """The pictures of up to `COLUMNS` cells and `prompts` prompts."""
    drawn = [cell for cell in cells if cell.record.images]
    shown = drawn[:COLUMNS]
    captions = _captions(shown)
    rows = [
        (f"{index}. {caption}", [_tile(cell, index) for cell in shown])
        for index, caption in list(captions.items())[:prompts]
    ]
    more = []
    if len(captions) > prompts:
        more.append(f"{prompts} of {len(captions)} prompts")
    if len(drawn) > COLUMNS:
        more.append(f"{COLUMNS} of {len(drawn)} settings")
    return Grid(shown, rows, ", ".join(more))


def thumbnail(pixels: np.ndarray) -> str:
    """A picture scaled down as a WebP data URI."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    picture.save(target, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(target.getvalue()).decode()}"


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Largest absolute difference of the three channels, `GAIN` times, as grey."""
    gap = np.abs(one.astype(np.int16) - other.astype(np.int16)).max(axis=2)
    return np.asarray(np.clip(gap * GAIN, 0, 255), np.uint8)


def pixels(cell: Cell, index: int) -> np.ndarray | None:
    """A kept picture by its prompt; None if it is not there or not a picture."""
    name = next((i.file for i in cell.record.images if i.index == index), "")
    folder = cell.path.parent.resolve()
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder):
        return None
    try:
        return load(path)
    except UserError:
        return None


def _captions(cells: Sequence[Cell]) -> dict[int, str]:
    """Prompts by index, in order; those that every cell drew come first."""
    seen: dict[int, str] = {}
    counts: dict[int, int] = {}
    for cell in cells:
        for image in cell.record.images:
            if image.index is not None:
                seen.setdefault(image.index, image.caption)
                counts[image.index] = counts.get(image.index, 0) + 1
    return {index: seen[index] for index in sorted(seen, key=lambda i: (-counts[i], i))}


def _tile(cell: Cell, index: int) -> Tile:
    drawn = pixels(cell, index)
    if drawn is None:
        return Tile(cell)
    reference = pixels(cell.baseline, index) if cell.baseline else None
    if reference is None or reference.shape != drawn.shape:
        note = "no baseline" if cell.quantized else "unquantized"
        return Tile(cell, thumbnail(drawn), note=note)
    gap = thumbnail(difference(reference, drawn))
    return Tile(cell, thumbnail(drawn), gap, _psnr(reference, drawn))


def _psnr(reference: np.ndarray, drawn: np.ndarray) -> str:
    """PSNR of one pair, computed here: records hold the pairs without their index."""
    error = float(np.mean((reference.astype(np.float64) - drawn.astype(np.float64)) ** 2))
    return f"{10 * np.log10(255.0**2 / error):.1f} dB" if error else "identical"
