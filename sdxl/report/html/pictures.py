"""The picture grid: prompts down, settings across, the difference to the baseline over each."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.report.cells import Cell
from sdxl.report.html.charts import badge
from sdxl.report.html.markup import Markup, h
from sdxl.report.values import number, pick

THUMB = 224
"""Longest side of an embedded picture in pixels."""
GAIN = 4
"""Differences are shown this many times as large, else the eye sees black."""
COLUMNS = 12
QUALITY = 72


def grid(cells: Sequence[Cell], prompts: int) -> Markup:
    """A table of thumbnails as data URIs; says so where there is nothing to show."""
    drawn = [cell for cell in cells if cell.record.images]
    if not drawn:
        return h("p", "No pictures were kept.", class_="quiet")
    shown = drawn[:COLUMNS]
    captions = _captions(shown)
    rows = []
    for index, caption in list(captions.items())[:prompts]:
        heading = h("span", f"{index}. {caption}", class_="caption")
        rows.append(h("tr", h("th", heading, colspan=len(shown), scope="rowgroup")))
        rows.append(h("tr", [h("td", _tile(cell, index, caption)) for cell in shown]))
    compared = any(cell.baseline for cell in shown)
    head = h("tr", [h("th", badge(cell), " ", cell.label, scope="col") for cell in shown])
    table = h("table", h("thead", head), h("tbody", rows), class_="pictures")
    how = (
        f"Point at a picture, or select it, to see the difference to its unquantized baseline, "
        f"{GAIN} times as large. Beneath: PSNR against the baseline."
    )
    more = []
    if len(captions) > prompts:
        more.append(f"{prompts} of {len(captions)} prompts")
    if len(drawn) > COLUMNS:
        more.append(f"{COLUMNS} of {len(drawn)} settings")
    return h(
        "div",
        h("p", how, class_="quiet screen") if compared else None,
        h("input", type="checkbox", class_="all", id=f"all-{shown[0].number}")
        if compared
        else None,
        h("label", "Show every difference", for_=f"all-{shown[0].number}", class_="screen")
        if compared
        else None,
        h("div", table, class_="scroll", tabindex="0", role="region", aria_label="Pictures"),
        h("p", f"Shown: {', '.join(more)}.", class_="quiet") if more else None,
        class_="grid",
    )


def thumbnail(pixels: np.ndarray) -> str:
    """A picture scaled down as a WebP data URI."""
    from PIL import Image

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
    from PIL import Image

    from sdxl.model.images import load

    name = next((i.get("file") for i in _images(cell) if i.get("index") == index), None)
    folder = cell.path.parent.resolve()
    path = (folder / Path(str(name))).resolve()
    if name is None or not path.is_relative_to(folder):
        return None
    try:
        return load(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _images(cell: Cell) -> list[dict[str, Any]]:
    return [image for image in cell.record.images if isinstance(image, dict)]


def _captions(cells: Sequence[Cell]) -> dict[int, str]:
    """Prompts by index, in order; those that every cell drew come first."""
    seen: dict[int, str] = {}
    counts: dict[int, int] = {}
    for cell in cells:
        for image in _images(cell):
            index = image.get("index")
            if isinstance(index, int):
                seen.setdefault(index, str(image.get("caption", "")))
                counts[index] = counts.get(index, 0) + 1
    return {index: seen[index] for index in sorted(seen, key=lambda i: (-counts[i], i))}


def _tile(cell: Cell, index: int, caption: str) -> Markup:
    drawn = pixels(cell, index)
    if drawn is None:
        return h("span", "not kept", class_="quiet")
    reference = pixels(cell.baseline, index) if cell.baseline else None
    picture = h("img", src=thumbnail(drawn), alt=f"{caption} ({cell.label})", class_="base")
    if reference is None or reference.shape != drawn.shape:
        return h("span", h("span", picture, class_="pic"), h("span", "unquantized" if not
                 cell.quantized else "no baseline", class_="note"), class_="tile")  # fmt: skip
    gap = h("img", src=thumbnail(difference(reference, drawn)), class_="diff",
            alt=f"difference to the baseline, {GAIN} times")  # fmt: skip
    return h(
        "label",
        h("input", type="checkbox", aria_label=f"difference of {cell.label} to its baseline"),
        h("span", picture, gap, class_="pic"),
        h("span", _psnr(reference, drawn), class_="note"),
        class_="tile",
    )


def _psnr(reference: np.ndarray, drawn: np.ndarray) -> str:
    """PSNR of one pair, computed here: records hold the pairs without their index."""
    error = float(np.mean((reference.astype(np.float64) - drawn.astype(np.float64)) ** 2))
    return f"{10 * np.log10(255.0**2 / error):.1f} dB" if error else "identical"


def worst_layers(cells: Sequence[Cell], count: int = 10) -> tuple[list[Cell], list[list[Any]]]:
    """(cells, rows): the layers of largest error, and that error in each cell as a fraction."""
    tables = {cell.number: _errors(cell) for cell in cells}
    having = [cell for cell in cells if tables[cell.number]]
    largest: dict[str, float] = {}
    for cell in having:
        for layer, error in tables[cell.number].items():
            largest[layer] = max(error, largest.get(layer, 0.0))
    chosen = sorted(largest, key=lambda layer: (-largest[layer], layer))[:count]
    return having, [[layer, *(tables[c.number].get(layer) for c in having)] for layer in chosen]


def _errors(cell: Cell) -> dict[str, float]:
    rows = cell.record.quality.get("layer_errors") or []
    pairs = ((str(pick(row, "layer", "?")), number(pick(row, "error"))) for row in rows)
    return {layer: error for layer, error in pairs if error is not None}
