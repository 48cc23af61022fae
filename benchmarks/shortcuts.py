"""The table and the pictures of docs/shortcuts.md, from the records of a sweep.

    python run.py -m +sweep=shortcuts limit=64 calib_size=8 hydra.sweep.dir=FOLDER
    python benchmarks/shortcuts.py FOLDER --min-accuracy 0.7 --picture docs/shortcuts.png

Ratios are to the cell with nothing left out, in fp32, of the most steps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sdxl.core.record import Record  # noqa: E402
from sdxl.model.images import sheet  # noqa: E402
from sdxl.report import cells, choose  # noqa: E402
from sdxl.report.cell import Cell  # noqa: E402
from sdxl.report.limits import Limits  # noqa: E402

HEAD = ("shortcut", "UNet", "steps", "images/s", "times", "GFLOP an image", "of them", "UNet rows",
        "PSNR dB", "answers changed", "attributes right")  # fmt: skip
PICTURES = 4
"""Prompts of the sheet: a row for each cell of the Pareto front."""


def main() -> None:
    """Print the table, the answer and, if asked, draw the front's pictures side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="of finished sweeps")
    parser.add_argument("--min-psnr", type=float, help="bound of the answer, in dB")
    parser.add_argument("--min-accuracy", type=float, help="bound of the answer, of attributes")
    parser.add_argument("--picture", type=Path, help="where the pictures side by side go")
    asked = parser.parse_args()
    found = [cell for cell in cells.load(asked.folders).cells if cell.measured]
    found = [cell for cell in found if cell.path.parent.name != "baseline"]
    if not (plain := [cell for cell in found if _plain(cell)]):
        parser.error("no cell with shortcut=none that is not quantized: nothing to compare with")
    limits = Limits(min_psnr=asked.min_psnr, min_accuracy=asked.min_accuracy)
    whole = max(plain, key=lambda cell: cell.setting("model.steps"))
    print("|" + "|".join(f" {name} " for name in HEAD) + "|\n" + "|---" * len(HEAD) + "|")
    for cell in sorted(found, key=lambda each: -(each.speed or 0.0)):
        print("|" + "|".join(f" {text} " for text in _row(cell, whole)) + "|")
    print(f"\n{choose.answer(found, limits).sentence}")
    if asked.picture:
        _draw([whole, *(c for c in choose.front(found)[::-1] if c is not whole)], asked.picture)


def _plain(cell: Cell) -> bool:
    return _shortcut(cell) == "none" and not cell.quantized


def _shortcut(cell: Cell) -> str:
    return str(cell.setting("shortcut.name", "none"))


def _arithmetic(cell: Cell) -> str:
    if not cell.quantized:
        return str(cell.setting("precision.unet"))
    kind = "simulated" if cell.simulated else "computed"
    return f"{cell.setting('quant.format')} level {cell.setting('quant.level'):g}, {kind}"


def _row(cell: Cell, whole: Cell) -> list[str]:
    flop, most = (each.record.performance.tflop_per_image or 0.0 for each in (cell, whole))
    changed = cell.comparison.extra.get("answers_changed")
    return [
        _shortcut(cell),
        _arithmetic(cell),
        str(cell.setting("model.steps")),
        f"{cell.speed or 0:.3f}",
        f"{(cell.speed or 0) / (whole.speed or 1):.2f}",
        f"{1e3 * flop:,.4g}",
        f"{flop / most:.0%}",
        str(_rows(cell.record)),
        "identical" if cell.psnr == float("inf") else f"{cell.psnr or 0:.1f}",
        "-" if changed is None else f"{changed:.1%}",
        "-" if cell.accuracy is None else f"{cell.accuracy:.1%}",
    ]


def _rows(record: Record) -> int:
    """UNet rows of an image."""
    return int(record.performance.work.get("unet_rows", 0))


def _draw(rows: list[Cell], target: Path) -> None:
    """A row of pictures for each cell, the same prompts in each."""
    paths, captions = [], []
    for cell in rows:
        for image in cell.record.images[:PICTURES]:
            paths.append(cell.path.parent / image.file)
            kind = f"{_shortcut(cell)}, {_arithmetic(cell)}"
            captions.append(f"{cell.psnr or 0:.1f} dB, {cell.setting('model.steps')} steps, {kind}")
    sheet(paths, captions, target)
    print(f"{target}: {len(rows)} cells")


if __name__ == "__main__":
    main()
