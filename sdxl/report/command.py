"""What was measured, and which setting to ship.   python -m sdxl report [RECORD|DIR ...]

python -m sdxl diff A B
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.core.command import Parser, ended
from sdxl.core.store import disk_error
from sdxl.report import cells, diff, plots, text
from sdxl.report.choose import Limits
from sdxl.report.html.page import page


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
    limits = Limits(asked.min_psnr, asked.min_ssim, asked.max_latency_ms, asked.max_memory_gib)
    found = cells.load(asked.places)
    whole = text.data(found, limits)
    written: list[str] = []
    if asked.html or not (asked.markdown or asked.json or asked.png):
        target = asked.html or common_folder(found) / "report.html"
        _write(target, page(found, limits, asked.prompts))
        written.append(str(target))
    if asked.png:
        written += [str(path) for path in plots.draw(found, asked.png)]
    if asked.markdown:
        sys.stdout.write(text.markdown(found, limits))
    elif not asked.json:
        text.show(found, limits)
    for path in written:
        print(f"written: {path}", file=sys.stderr)
    if asked.markdown:
        return None
    if asked.json:
        return {**whole, "written": written}
    answers = {group["work"]: group["answer"] for group in whole["groups"]}
    counts: dict[str, int] = {}
    for cell in found.cells:
        counts[cell.record.status] = counts.get(cell.record.status, 0) + 1
    return {"status": "ok", "cells": counts, "answers": answers, "written": written,
            "exit_code": 0}  # fmt: skip


def common_folder(found: cells.Cells) -> Path:
    """The folder that holds all records, or the one typed in if that is above everything."""
    shared = Path(os.path.commonpath([str(cell.path.parent) for cell in found.cells]))
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
    limits.add_argument("--min-psnr", type=float, metavar="DB", help="against the baseline")
    limits.add_argument("--min-ssim", type=float, metavar="X", help="against the baseline, 0 to 1")
    limits.add_argument("--max-latency-ms", type=float, metavar="MS", help="99th percentile")
    limits.add_argument("--max-memory-gib", type=float, metavar="GIB", help="peak")
    out = parser.add_argument_group("output")
    out.add_argument("--html", type=Path, metavar="FILE", help="default: report.html beside them")
    out.add_argument("--markdown", action="store_true", help="on standard output, no page")
    out.add_argument("--json", action="store_true", help="everything, as the one line of output")
    out.add_argument("--png", type=Path, metavar="DIR", help="plots by matplotlib, no page")
    out.add_argument("--prompts", type=int, default=4, metavar="N", help="rows of pictures")
    return parser
