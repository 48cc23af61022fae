"""Cells beside one of them, prompt by prompt: better, equal or worse, by how much, how sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdxl.core.errors import UserError, one_line
from sdxl.core.record import Paired
from sdxl.quality import paired
from sdxl.report.cell import Cell
from sdxl.report.values import DASH

MEASURE = "psnr_db"
"""The quality measure of every view, by prompt."""


@dataclass(frozen=True)
class Row:
    """A cell beside the other one; without `found` they are no pairs, and `why` says why."""

    cell: Cell
    found: list[Paired] = field(default_factory=list)
    why: str = ""


def has(cell: Cell) -> bool:
    """Has the record its figures by prompt?"""
    return bool(cell.record.quality.per_prompt.file)


def pairs(one: Cell, other: Cell) -> tuple[list[Paired], str]:
    """Figures of one beside other's, or why they are no pairs."""
    digests = (cell.record.quality.per_prompt.sha256 for cell in (one, other))
    found, why = _pairs(one.path, other.path, *digests)
    return [*found], why


def rows(cells: Sequence[Cell], anchor: Cell | None) -> list[Row]:
    """Every other cell beside the anchor; nothing where no two are pairs."""
    if anchor is None or not has(anchor):
        return []
    made = [Row(cell, *pairs(cell, anchor)) for cell in cells if cell is not anchor]
    return made if any(row.found for row in made) else []


def table(
    cells: Sequence[Cell], anchor: Cell | None, brief: bool = False
) -> tuple[list[str], list[list[str]]]:
    """(head, rows) in words; `brief`: the quality measure, and what tells a cell apart."""
    lines = []
    for row in rows(cells, anchor):
        number = str(row.cell.number)
        shown = [
            each
            for each in row.found
            if not brief or each.metric == MEASURE or each.verdict != "equal"
        ]
        lines += [[number, each.metric, paired.sentence(each)] for each in shown]
        if rest := len(row.found) - len(shown):
            lines.append([number, f"{rest} more", "equal within their resolution (--json has all)"])
        if not row.found:
            lines.append([number, DASH, f"no pairs: {row.why}"])
    return ["#", "figure", f"beside {anchor.number}" if anchor else ""], lines


def data(cells: Sequence[Cell], anchor: Cell | None) -> list[dict[str, Any]]:
    """The same as JSON, every figure of it."""
    return [
        {
            "cell": row.cell.number,
            "beside": anchor.number if anchor else None,
            "figures": [each.to_json() for each in row.found],
            "no_pairs": row.why or None,
        }
        for row in rows(cells, anchor)
    ]


NOTE = (
    "Prompt by prompt: same prompt, same noise. Equal within the resolution: the least difference "
    "that so many prompts show four times in five. Every figure is a test of its own, wrong one "
    "time in twenty where nothing differs."
)


@lru_cache(maxsize=1024)
def _pairs(one: Path, other: Path, *_digests: str) -> tuple[tuple[Paired, ...], str]:
    """Computed once for a report that asks in several views; the digests are of the figures."""
    try:
        found, why = paired.beside(one, other)
    except UserError as error:  # a damaged file takes the comparison away, not the report
        return (), one_line(error.problems)
    return tuple(found), why
