"""Which cell to ship: limits, the Pareto front, and an answer that does not claim too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import mean, median, stdev

from sdxl.report.cells import Cell
from sdxl.report.values import number, rate

LATENCY = ("SingleStream", "MultiStream")
"""Scenarios whose figure is a latency."""


@dataclass(frozen=True)
class Limits:
    """What a cell must keep to be chosen; None asks nothing."""

    min_psnr: float | None = None  # dB against the unquantized baseline
    min_ssim: float | None = None
    max_latency_ms: float | None = None  # of the 99th percentile
    max_memory_gib: float | None = None

    def broken(self, cell: Cell) -> list[str]:
        """The limits that a cell breaks, in words; what was not measured cannot be kept."""
        found = []
        same = not cell.quantized or (cell.against_baseline and cell.psnr is None)
        if self.min_psnr is not None and not same:
            found += _least("PSNR", cell.psnr, self.min_psnr, " dB")
        if self.min_ssim is not None and cell.quantized:
            found += _least("SSIM", cell.ssim, self.min_ssim, "")
        if self.max_latency_ms is not None:
            found += _most("p99 latency", cell.latency.get("p99"), self.max_latency_ms, " ms")
        if self.max_memory_gib is not None:
            found += _most("memory", cell.memory_gib, self.max_memory_gib, " GiB")
        return found

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))

    def __str__(self) -> str:
        texts = {"min_psnr": "PSNR at least {:g} dB", "min_ssim": "SSIM at least {:g}",
                 "max_latency_ms": "p99 at most {:g} ms",
                 "max_memory_gib": "memory at most {:g} GiB"}  # fmt: skip
        given = ((text, getattr(self, name)) for name, text in texts.items())
        return ", ".join(text.format(value) for text, value in given if value is not None)


@dataclass
class Answer:
    """What can be said about one group of cells."""

    sentence: str
    best: Cell | None = None
    notes: list[str] = field(default_factory=list)
    refused: list[tuple[Cell, str]] = field(default_factory=list)  # cells and the limits they break


def answer(cells: Sequence[Cell], limits: Limits) -> Answer:
    """The best cell of a group that did the same work, within the limits."""
    valid = [cell for cell in cells if cell.record.status == "ok"]
    broken = {cell.number: limits.broken(cell) for cell in cells}
    inside = [cell for cell in valid if not broken[cell.number]]
    real = [cell for cell in inside if cell.speed and not cell.meaningless]
    found = Answer(_sentence(cells, valid, inside, real, limits), notes=_notes(cells, real))
    quantized_too = any(cell.quantized for cell in inside)
    if len(cells) > 1 and (any(cell.quantized for cell in real) or not quantized_too):
        found.best = fastest(real)
    found.refused = [(c, "; ".join(broken[c.number])) for c in cells if broken[c.number]]
    return found


def fastest(cells: Sequence[Cell]) -> Cell | None:
    """Best by the scenario's own figure: least latency, or most images per second."""
    return max(cells, key=_merit, default=None)


def closest(cells: Sequence[Cell]) -> Cell | None:
    """The quantized cell whose pictures differ least from its baseline's."""
    compared = [cell for cell in cells if cell.quantized and cell.loss is not None]
    return min(compared, key=lambda cell: cell.loss or 0.0, default=None)


def front(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that no other one beats in speed and loss at once, by falling speed."""
    valid = (c for c in cells if c.record.status == "ok")
    plotted = [c for c in valid if c.speed and c.loss is not None and not c.meaningless]
    kept: list[Cell] = []
    for cell in sorted(plotted, key=lambda c: (-(c.speed or 0.0), c.loss or 0.0)):
        if not kept or (cell.loss or 0.0) < (kept[-1].loss or 0.0):
            kept.append(cell)
    return kept


def _merit(cell: Cell) -> float:
    value = cell.record.performance.value
    if cell.setting("scenario.name") in LATENCY and value:
        return -value
    return median(cell.repeats) if cell.repeats else cell.speed or 0.0


def _sentence(
    cells: Sequence[Cell],
    valid: Sequence[Cell],
    inside: Sequence[Cell],
    real: Sequence[Cell],
    limits: Limits,
) -> str:
    if not valid:
        return f"No answer: none of the {len(cells)} measurements is valid."
    if not inside:
        return f"No valid cell keeps the limits ({limits})."
    if all(cell.setting("backend.name") == "fake" for cell in inside):
        return "No answer: the fake backend runs no model; these cells only exercise the harness."
    near = closest(inside)
    within = f" ({limits})" if limits else ""
    if any(cell.quantized for cell in inside) and not any(cell.quantized for cell in real):
        text = "No answer on speed yet: the quantized arithmetic was simulated."
        if near:
            text += (
                f" In quality, {near.label} stays closest to its baseline{decibels(near)}{within}"
            )
            count = sum(_tied(near, cell) for cell in inside if cell is not near)
            text += f"; {count} more cannot be told from it by these pictures." if count else "."
        return text
    best = fastest(real)
    if not best:
        return "No answer: no valid cell has a speed (accuracy mode measures none)."
    if len(cells) == 1:
        return f"One cell: {best.label}, {figure(best)}. Nothing to compare it with."
    start = f"Fastest{within}" if limits else "Fastest valid cell"
    text = f"{start}: {best.label}, {figure(best)}"
    if best.quantized and best.speed_up:
        text += f", {best.speed_up:.2f} times its unquantized baseline{decibels(best)}"
    return text + "."


def _tied(best: Cell, other: Cell) -> bool:
    """Is the mean PSNR gap of two cells, picture by picture, inside twice its standard error?"""
    both = [
        [number(pair.get("psnr_db")) for pair in cell.against_baseline.pairs]
        for cell in (best, other)
    ]
    if not both[0] or len(both[0]) != len(both[1]):
        return False
    gaps = [a - b for a, b in zip(*both, strict=True) if a is not None and b is not None]
    if len(gaps) < 2:
        return False
    return mean(gaps) <= 2 * stdev(gaps) / len(gaps) ** 0.5


def _notes(cells: Sequence[Cell], real: Sequence[Cell]) -> list[str]:
    notes = []
    simulated = [c for c in cells if c.meaningless.startswith("quantized")]
    if simulated:
        notes.append(
            f"Simulated: {len(simulated)} of {len(cells)} cells round to 8-bit numbers but compute "
            "in wider ones. Their pictures are true, their speed and speed-up mean nothing."
        )
    if len(real) > 1 and not any(cell.repeats for cell in real):
        notes.append(
            "Every cell was measured once, so the run-to-run spread is unknown; "
            "small differences in speed may be noise."
        )
    reasons = {cell.record.comparable_reason for cell in cells if not cell.record.comparable}
    if len(reasons) == 1 and all(not cell.record.comparable for cell in cells):
        notes.append(f"Not comparable with published MLPerf results: {reasons.pop()}.")
    elif reasons:
        notes.append("Some cells are not comparable with published results: see Verdicts.")
    machines = {machine(cell) for cell in cells}
    if len(machines) > 1:
        notes.append(f"The cells ran on different machines: {' / '.join(sorted(machines))}.")
    limits = {str(cell.setting("limit") or "all") for cell in cells}
    if len(limits) > 1:
        notes.append(
            f"The cells drew different numbers of prompts (limit: {', '.join(sorted(limits))})."
        )
    return notes


def figure(cell: Cell) -> str:
    """The scenario's own figure with its unit."""
    performance = cell.record.performance
    if performance.unit == "ms" and performance.value:
        return f"{performance.value:,.4g} ms early-stopping latency"
    return f"{rate(cell.speed)} images/s" if cell.speed else "no speed"


def machine(cell: Cell) -> str:
    """The GPU, or else the processor."""
    found = cell.record.environment
    return found.gpu_names[0] if found.gpu_names else found.cpu or "unknown processor"


def decibels(cell: Cell) -> str:
    """`, PSNR 24.1 dB` where it was compared."""
    if not cell.against_baseline:
        return ""
    return ", identical pictures" if cell.psnr is None else f" at PSNR {cell.psnr:.1f} dB"


def _least(what: str, value: float | None, limit: float, unit: str) -> list[str]:
    if value is None:
        return [f"{what} was not measured"]
    return [f"{what} {value:.5g}{unit}, at least {limit:g}{unit} asked"] if value < limit else []


def _most(what: str, value: float | None, limit: float, unit: str) -> list[str]:
    if value is None:
        return [f"{what} was not measured"]
    return [f"{what} {value:.5g}{unit}, at most {limit:g}{unit} asked"] if value > limit else []
