"""The ladder: what each step of the torch backend gains, as one table at the end of its sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdxl.core import records, terminal
from sdxl.core.command import Outcome
from sdxl.core.record import Record

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
    numbers = {*HEADINGS} - {"rung", "scenario", ""}
    terminal.console().print(terminal.table(HEADINGS, table(outcomes), "ladder", numbers))


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
        if equal := record.performance.equal_to:  # skipped: another cell did the same work
            measured = records.read(Path(equal))
        found.append((rung_of(outcome), *_figures(measured, first), _note(record)))
    return found


def _figures(record: Record, first: dict[tuple[str, int], float]) -> tuple[str, ...]:
    speed, memory, limit = record.performance, record.resources, record.performance.roofline
    rate, work = speed.images_per_second or 0.0, (speed.scenario or "", speed.batch_size or 0)
    first.setdefault(work, rate)
    tera, matrix = speed.tflops or 0.0, limit.matrix_tflops
    peak = memory.cuda_peak_bytes or memory.peak_rss_bytes or 0
    return (
        *map(str, work),
        f"{rate:.3f}",
        f"{1e3 / rate:.1f}",
        f"{tera:.3g}",
        f"{tera / matrix:.1%}" if matrix else "-",
        "-" if limit.share is None else f"{limit.share:.1%}",
        f"{peak / 2**30:.2f}",
        f"{rate / first[work]:.3f}",
    )


def _note(record: Record) -> str:
    """What did not run as the rung asks."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    executed = record.performance.generator.execution
    kinds = (executed.get(kind, {}) for kind in ("fallbacks", "wide", "unfused"))
    reasons = {reason: count for each in kinds for reason, count in each.items()}
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items())
