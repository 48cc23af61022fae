"""The ladder: what each step of the torch backend gains, as one table at the end of its sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sdxl.core import records
from sdxl.core.command import Outcome
from sdxl.core.types import Record

RUNG = "+rung="
HEADINGS = ("rung", "scenario", "batch", "images/s", "ms/image", "TFLOP/s", "of matrix peak",
            "of roofline", "GiB", "x first", "")  # fmt: skip


def rung_of(outcome: Outcome) -> str:
    """The rung that an outcome's command names; empty if none."""
    words = str(outcome.command).split()
    return next((word.removeprefix(RUNG) for word in words if word.startswith(RUNG)), "")


def show(outcomes: Sequence[Outcome]) -> None:
    """At the end of a sweep over rungs: the table on standard output."""
    if not any(map(rung_of, outcomes)):
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="ladder", title_justify="left", title_style="bold")
    for heading in HEADINGS:
        left = heading in ("rung", "scenario", "")
        shown.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in table(outcomes):
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(shown)


def table(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """One row per rung; the ratio is to the first rung of the same scenario and batch size."""
    found = []
    first: dict[tuple[str, int], float] = {}
    for outcome in outcomes:
        path = outcome.record
        if not path or not outcome.figures.get("images_per_second"):
            why = f"{outcome.status}: {outcome.reason or 'no figures'}"
            found.append((rung_of(outcome), *[""] * 9, why))
            continue
        record = measured = records.read(Path(path))
        if equal := record.performance.get("equal_to"):  # skipped: another cell did the same work
            measured = records.read(Path(equal))
        found.append((rung_of(outcome), *_figures(measured, first), _note(record)))
    return found


def _figures(record: Record, first: dict[tuple[str, int], float]) -> tuple[str, ...]:
    speed, memory = record.performance, record.resources
    rate, work = speed["images_per_second"], (speed["scenario"], speed["batch_size"])
    first.setdefault(work, rate)
    limit = speed.get("roofline", {})
    matrix = limit.get("matrix_tflops")
    peak = memory.get("cuda_peak_bytes") or memory["peak_rss_bytes"]
    return (
        *map(str, work),
        f"{rate:.3f}",
        f"{1e3 / rate:.1f}",
        f"{speed['tflops']:.3g}",
        f"{speed['tflops'] / matrix:.1%}" if matrix else "-",
        f"{limit['share']:.1%}" if "share" in limit else "-",
        f"{peak / 2**30:.2f}",
        f"{rate / first[work]:.3f}",
    )


def _note(record: Record) -> str:
    """What did not run as the rung asks."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    executed = record.performance["generator"].get("execution") or {}
    kinds = (executed.get(kind, {}) for kind in ("fallbacks", "wide", "unfused"))
    reasons = {reason: count for each in kinds for reason, count in each.items()}
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
