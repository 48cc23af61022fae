"""What was measured, and which setting to ship.   python -m sdxl report [RECORD|DIR ...]

python -m sdxl diff A B
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sdxl.core import terminal
from sdxl.core.command import Parser, ended
from sdxl.core.store import disk_error
from sdxl.report import cells, curve, diff, plots, published, table_file, text
from sdxl.report.html.page import page
from sdxl.report.limits import Limits


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    The last line on standard output is one JSON object, except where Markdown goes there.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["diff"]:
        return ended(lambda: diff.command(words[1:]))
    return ended(lambda: _report(words))


def _report(words: list[str]) -> dict[str, Any] | None:
    asked = _parser().parse_args(words)
    limits = Limits(**{each.name: getattr(asked, each.name) for each in fields(Limits)})
    found = cells.load(asked.places)
    if asked.per_hour is not None:
        cells.set_price(found, asked.per_hour)
    if asked.with_published and not published.mark(found):
        terminal.say(
            "--with-published: no cell ran SDXL's 1024 x 1024 pictures in 20 steps on an "
            f"accelerator and in a scenario of {published.TABLE.name}"
        )
    whole = text.data(found, limits)
    written: list[Path] = []
    quiet = asked.markdown or asked.json or asked.png or asked.csv
    if asked.html or not quiet:
        html = asked.html or own_folder(found) / "report.html"
        _write(html, page(found, limits, asked.prompts))
        written.append(html)
    if not (asked.html or quiet):
        _write(html.with_suffix(".csv"), table_file.of(whole))
        _write(html.with_suffix(".json"), json.dumps(whole, indent=1))
        written += [html.with_suffix(".csv"), html.with_suffix(".json")]
    if asked.csv:
        _write(asked.csv, table_file.of(whole))
        written.append(asked.csv)
    if asked.png:
        written += plots.draw(found, asked.png)
        written += [
            curve.png(cell.record, cell.label, asked.png / f"load-{cell.number}.png")
            for cell in found.cells
            if curve.points(cell.record)
        ]
    if asked.markdown:
        sys.stdout.write(text.markdown(found, limits))
    elif not asked.json:
        text.show(found, limits)
    for path in written:
        terminal.say(f"written: {path}")
    return None if asked.markdown else _line(found, whole, [*map(str, written)], asked.json)


def _line(
    found: cells.Cells, whole: dict[str, Any], written: list[str], everything: bool
) -> dict[str, Any]:
    """The last line of the output: all that the page shows, or the answers and counts."""
    if everything:
        return {**whole, "written": written}
    answers = {group["work"]: group["answer"] for group in whole["groups"]}
    counts = Counter(cell.record.status for cell in found.cells)
    return {"status": "ok", "cells": counts, "answers": answers, "written": written,
            "exit_code": 0}  # fmt: skip


def own_folder(found: cells.Cells) -> Path:
    """A new folder for one report, beside the records: no report takes the place of another."""
    place = common_folder(found) / "reports"
    name = time.strftime("%Y-%m-%d-%H-%M-%S")
    taken = (place / (f"{name}-{count}" if count else name) for count in itertools.count())
    return next(folder for folder in taken if not folder.exists())


def common_folder(found: cells.Cells) -> Path:
    """The folder that holds all records, or the one typed in if that is above everything."""
    shared = Path(
        os.path.commonpath([str(cell.path.parent) for cell in (*found.cells, *found.trainings)])
    )
    return shared if len(shared.parts) > 2 and os.access(shared, os.W_OK) else Path()


def _write(target: Path, content: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    except OSError as error:
        raise disk_error(error, target) from error


def _parser() -> Parser:
    parser = Parser(
        prog="python -m sdxl report",
        description="A table, and one HTML page that needs no network, from records alone. "
        "`diff A B` compares two records.",
    )
    parser.add_argument(
        "places", nargs="*", type=Path, metavar="RECORD|DIR",
        help="records, or folders with some (default: the newest folder of multirun/)",
    )  # fmt: skip
    limits = parser.add_argument_group("limits: the best cell that keeps them is named")
    what = "against the common reference, else the baseline"
    limits.add_argument("--min-psnr", type=float, metavar="DB", help=what)
    limits.add_argument("--min-ssim", type=float, metavar="X", help=f"{what}, 0 to 1")
    limits.add_argument("--min-accuracy", type=float, metavar="X", help="of attributes, 0 to 1")
    limits.add_argument("--min-rate", type=float, metavar="X", help="images per second")
    limits.add_argument("--max-latency-ms", type=float, metavar="MS", help="99th percentile")
    limits.add_argument("--max-memory-gib", "--max-memory", type=float, metavar="GIB", help="peak")
    limits.add_argument("--max-joules", type=float, metavar="J", help="of an image")
    limits.add_argument("--max-price", type=float, metavar="X", help="of 1,000 images")
    parser.add_argument(
        "--per-hour", type=float, metavar="X",
        help="price of an hour of the machine, in place of the records' cost.per_hour",
    )  # fmt: skip
    parser.add_argument(
        "--with-published", action="store_true",
        help="beside each cell the best published MLPerf result on its accelerator, and the ratio",
    )  # fmt: skip
    out = parser.add_argument_group("output")
    out.add_argument(
        "--html", type=Path, metavar="FILE",
        help="default: page, CSV and JSON in a new folder reports/TIME beside the records",
    )  # fmt: skip
    out.add_argument("--csv", type=Path, metavar="FILE", help="a line for each cell, no page")
    out.add_argument("--markdown", action="store_true", help="on standard output, no page")
    out.add_argument("--json", action="store_true", help="everything, as the one line of output")
    out.add_argument("--png", type=Path, metavar="DIR", help="plots by matplotlib, no page")
    out.add_argument("--prompts", type=int, default=4, metavar="N", help="rows of pictures")
    return parser
