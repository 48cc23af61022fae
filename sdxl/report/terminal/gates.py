"""A verdict as a table: gate, required, measured, margin, pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sdxl.core.types import Record

OFFICIAL_MS = 600_000
"""From this duration on a run means to be an official one, and its gates are worth a table."""


def summary(record: Record) -> str:
    """The verdict in one line: how many gates of the round pass."""
    rows = record.verdict
    passed = sum(row["pass"] for row in rows)
    text = f"{passed} of {len(rows)} gates of {record.config['round']}"
    return text if passed == len(rows) else f"{text}; python -m sdxl verdict lists them"


def wanted(record: Record) -> bool:
    """Is this a run with official settings, or an audit, whose whole table should be seen?"""
    official = record.config["scenario"]["min_duration_ms"] >= OFFICIAL_MS
    return bool(record.verdict) and (official or bool(record.config.get("compliance")))


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("gate", "required", "measured", "margin", "pass"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        passed = row["pass"]
        cells = (row["gate"], row["required"], row["measured"], row["margin"])
        table.add_row(*cells, "yes" if passed else "NO", style=None if passed else "red")
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
