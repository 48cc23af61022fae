"""A verdict as a table: gate, required, measured, margin, pass."""

from __future__ import annotations

from collections.abc import Sequence

from sdxl.bench.mlperf import verdict
from sdxl.core import terminal
from sdxl.core.record import GateRow, Record


def summary(record: Record) -> str:
    """The verdict in one line: how many gates of the round pass."""
    rows = record.verdict
    passed = sum(row.passed for row in rows)
    text = f"{passed} of {len(rows)} gates of {record.config['round']}"
    return text if passed == len(rows) else f"{text}; python -m sdxl verdict lists them"


def wanted(record: Record) -> bool:
    """Is this a run with official settings, or an audit, whose whole table should be seen?"""
    audit = bool(record.config.get("compliance"))
    return bool(record.verdict) and (verdict.asked(record) or audit)


def fails(row: GateRow, asked: bool) -> bool:
    """Does a gate count against a run? Those of the round only where they were asked for."""
    return not row.passed and (asked or row.scope == "run")


def word(row: GateRow, asked: bool) -> str:
    """Whether a gate passes, in a table: `yes`, `NO`, or that nobody asked for it."""
    return "NO" if fails(row, asked) else "yes" if row.passed else "not asked for"


def show(title: str, rows: Sequence[GateRow], asked: bool = True) -> None:
    """Print the table on standard output; asked: were the round's gates?"""
    words = [word(row, asked) for row in rows]
    cells = [
        (row.gate, row.required, row.measured, row.margin, said)
        for row, said in zip(rows, words, strict=True)
    ]
    shown = terminal.table(("gate", "required", "measured", "margin", "pass"), cells, title)
    styles = {"NO": "red", "not asked for": "dim"}
    for said, line in zip(words, shown.rows, strict=True):
        line.style = styles.get(said)
    terminal.console().print(shown)
