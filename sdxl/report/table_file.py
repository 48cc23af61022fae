"""Cells as a CSV file for a spreadsheet, in which no text becomes a formula."""

from __future__ import annotations

import csv
import io
from typing import Any

from sdxl.report.values import flatten

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet compute a text."""


def of(report: dict[str, Any]) -> str:
    """One line for each cell of the report's JSON, nested values under dotted names."""
    found = [{n: v for n, v in cell.items() if v not in ({}, [])} for cell in report["cells"]]
    rows = [{name: _plain(v) for name, v in flatten(cell).items()} for cell in found]
    names = list(dict.fromkeys(name for row in rows for name in row))
    target = io.StringIO()
    writer = csv.DictWriter(target, names, lineterminator="\n")
    writer.writerow({name: _plain(name) for name in names})
    writer.writerows(rows)
    return target.getvalue()


def _plain(value: Any) -> Any:
    """A number as it is; text that a spreadsheet would compute behind an apostrophe."""
    if isinstance(value, str):
        return f"'{value}" if value.lstrip(" \n").startswith(FORMULA) else value
    return "" if value is None else value
