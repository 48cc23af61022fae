"""Trainings among the records of a report: how fast each was, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdxl.report.cell import Cell
from sdxl.report.values import DASH

NOTE = "trainings: samples a second, a step, and the device's peak"
HEAD = (
    "training",
    "steps",
    "batch",
    "samples/s",
    "step ms",
    "data wait",
    "TFLOP/s",
    "of peak",
    "GiB",
    "figures",
)


def table(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """(head, rows), a row for each; what was not measured is a dash."""
    return [*HEAD], [_row(cell) for cell in cells]


def data(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "record": str(cell.path),
            "status": cell.record.status,
            "command": cell.record.command,
            **cell.record.training.to_json(),
        }
        for cell in cells
    ]


def _row(cell: Cell) -> list[str]:
    found = cell.record.training
    figures = {n: v for n, v in found.figures.items() if n not in ("lr", "grad_norm")}
    return [
        cell.label,
        _form(found.steps, ",d"),
        _form(found.batch, "d"),
        _form(found.samples_per_s, ",.4g"),
        _form(found.step_ms, ",.4g"),
        _form(found.data_wait, ".1%"),
        _form(found.tflops, ".3g"),
        _form(found.share_of_peak, ".1%"),
        _form(found.peak_memory_gib, ".2f"),
        ", ".join(f"{name} {float(value):.4g}" for name, value in figures.items()) or DASH,
    ]


def _form(value: float | None, spec: str) -> str:
    return DASH if value is None else f"{value:{spec}}"
