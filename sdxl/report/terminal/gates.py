"""A verdict as a table: gate, required, measured, margin, pass."""

from __future__ import annotations

from collections.abc import Sequence

from sdxl.core import terminal
from sdxl.core.record import GateRow, Record

OFFICIAL_MS = 600_000
"""From this duration on a run means to be an official one, and its gates are worth a table."""


def summary(record: Record) -> str:
    """The verdict in one line: how many gates of the round pass."""
    rows = record.verdict
    passed = sum(row.passed for row in rows)
    text = f"{passed} of {len(rows)} gates of {record.config['round']}"
    return text if passed == len(rows) else f"{text}; python -m sdxl verdict lists them"


def wanted(record: Record) -> bool:
    """Is this a run with official settings, or an audit, whose whole table should be seen?"""
    official = record.config["scenario"]["min_duration_ms"] >= OFFICIAL_MS
    return bool(record.verdict) and (official or bool(record.config.get("compliance")))


def show(title: str, rows: Sequence[GateRow]) -> None:
    """Print the table on standard output."""
    cells = [
        (row.gate, row.required, row.measured, row.margin, "yes" if row.passed else "NO")
        for row in rows
    ]
    shown = terminal.table(("gate", "required", "measured", "margin", "pass"), cells, title)
    for row, line in zip(rows, shown.rows, strict=True):
        line.style = None if row.passed else "red"
    terminal.console().print(shown)
