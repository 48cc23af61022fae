"""Which cell to ship: the Pareto front, and an answer that does not claim too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from sdxl.quality import paired
from sdxl.report import apart, by_prompt
from sdxl.report.axes import SPEED, Axis
from sdxl.report.cell import REFERENCE, Cell
from sdxl.report.limits import BOUNDS, Limits
from sdxl.report.values import decibels, rate

LATENCY = ("SingleStream", "MultiStream")
"""Scenarios whose figure is a latency."""


@dataclass
class Answer:
    """What can be said about one group of cells."""

    sentence: str
    best: Cell | None = None
    runner_up: Cell | None = None
    anchor: Cell | None = None  # which the others stand beside, prompt by prompt
    margins: list[str] = field(default_factory=list)  # of the best cell to each limit
    changes: list[str] = field(default_factory=list)  # what would make another cell the best
    alike: list[str] = field(default_factory=list)  # what cannot be told apart
    notes: list[str] = field(default_factory=list)
    refused: list[tuple[Cell, str]] = field(default_factory=list)  # cells and the limits they break

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(name, text) of what stands beneath the sentence in every view."""
        found = [("margin", text) for text in self.margins]
        if self.best and self.runner_up:
            found.append(("runner-up", _beside(self.runner_up, self.best)))
            found += [("in quality", text) for text in _in_quality(self.runner_up, self.best)]
        found += [("would change it", text) for text in self.changes]
        return found + [("cannot be told apart", text) for text in self.alike]


def answer(cells: Sequence[Cell], limits: Limits) -> Answer:
    """The best cell of a group that did the same work, within the limits.

    Published results stand beside and are never chosen.
    """
    peers = [cell for cell in cells if cell.published]
    cells = [cell for cell in cells if not cell.published]
    if not cells:
        return Answer("No answer: these are published results, nothing was measured here.")
    valid = [cell for cell in cells if cell.record.status == "ok"]
    broken = {cell.number: limits.broken(cell) for cell in cells}
    inside = [cell for cell in valid if not broken[cell.number]]
    timed = [cell for cell in valid if cell.speed and not cell.meaningless]
    real = [cell for cell in timed if cell in inside]
    found = Answer(_sentence(cells, valid, inside, real, limits), notes=_notes(cells, real))
    if peers:
        found.notes.append(
            f"{len(peers)} rows are published results, measured by their submitters."
        )
    quantized_too = any(cell.quantized for cell in inside)
    if len(cells) > 1 and (any(cell.quantized for cell in real) or not quantized_too):
        found.best = fastest(real)
    if best := found.best:
        found.runner_up = fastest([cell for cell in real if cell is not best])
        found.margins = limits.margins(best)
        found.changes = _changes(best, timed, limits)
    found.anchor = found.best or closest(inside)
    found.alike = _alike(inside, found.best, found.runner_up)
    found.refused = [(c, "; ".join(broken[c.number])) for c in cells if broken[c.number]]
    return found


def fastest(cells: Sequence[Cell]) -> Cell | None:
    """Best by the scenario's own figure: least latency, or most images per second."""
    return max(cells, key=lambda cell: (_merit(cell), cell.psnr or 0.0), default=None)


def closest(cells: Sequence[Cell]) -> Cell | None:
    """The quantized cell whose pictures differ least from what they should be."""
    compared = [cell for cell in cells if cell.quantized and cell.psnr is not None]
    return max(compared, key=lambda cell: cell.psnr or 0.0, default=None)


def front(cells: Sequence[Cell], axis: Axis = SPEED) -> list[Cell]:
    """Cells that no other one beats in quality and, say, speed at once; the fastest first."""
    valid = (c for c in cells if c.record.status == "ok")
    plotted = [c for c in valid if axis.value(c) and c.psnr is not None and not c.meaningless]
    kept: list[Cell] = []
    for cell in sorted(plotted, key=lambda c: (-axis.merit(c), -(c.psnr or 0.0))):
        if not kept or (cell.psnr or 0.0) > (kept[-1].psnr or 0.0):
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
            text += f" Of the quantized, {near.label} stays closest to its {near.compared_with}"
            text += f"{quality(near)}{within}"
            count = sum(apart.alike(near, each) for each in inside if each is not near)
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
        text += f", {best.speed_up:.2f} times its unquantized baseline"
    return f"{text}{quality(best)}."


def _changes(best: Cell, timed: Sequence[Cell], limits: Limits) -> list[str]:
    """Which other cell each limit would choose if it were dropped, or stricter than the best."""
    found: dict[int, str] = {}
    for bound in BOUNDS:
        rest = [(each, limit) for each, limit in limits.given() if each is not bound]
        kept = [c for c in timed if all(each.keeps(c, limit) for each, limit in rest)]
        limit = getattr(limits, bound.name)
        other = fastest(kept) if limit is not None else None
        if other and other is not best:
            words = f"without {bound.asked(limit)}: {other.label}, {figure(other)}{quality(other)}"
            found.setdefault(other.number, words)
        given = [each for each in kept if limit is None or bound.keeps(each, limit)]
        stricter = fastest([each for each in given if bound.better(each, best)])
        mark = bound.measured(best)
        if stricter and mark is not None:
            side = "above" if bound.least else "below"
            words = f"{bound.what} {side} {bound.form(mark)}: {stricter.label}, {figure(stricter)}"
            found.setdefault(stricter.number, words + quality(stricter))
    return list(found.values())


def _alike(inside: Sequence[Cell], best: Cell | None, runner_up: Cell | None) -> list[str]:
    """Cells that these pictures cannot tell from the best, or in speed from it."""
    near = best if best and best.quantized else closest(inside)
    found = []
    if near:
        same = [each.label for each in inside if each is not near and apart.alike(near, each)]
        found += [f"in quality: {', '.join([near.label, *same])}"] if same else []
    if best and runner_up and apart.alike_in_speed(best, runner_up):
        found.append(f"in speed: {best.label}, {runner_up.label} (their repeats overlap)")
    return found


def _notes(cells: Sequence[Cell], real: Sequence[Cell]) -> list[str]:
    notes = []
    if simulated := [c for c in cells if c.simulated]:
        notes.append(
            f"Simulated: {len(simulated)} of {len(cells)} cells round to 8-bit numbers but compute "
            "in wider ones. Their pictures are true, their speed and speed-up mean nothing."
        )
    if len(real) > 1 and not any(cell.repeats for cell in real):
        notes.append(
            "Every cell was measured once, so the run-to-run spread is unknown; "
            "small differences in speed may be noise."
        )
    notes += _measure(cells)
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


def _measure(cells: Sequence[Cell]) -> list[str]:
    """What the quality figures are measured against, where that is not one thing for all."""
    if any(cell.against == REFERENCE for cell in cells):
        lacking: dict[str, list[str]] = {}
        for cell in cells:
            if cell.psnr is None:
                why = cell.record.quality.reference.absent or "measured without one"
                lacking.setdefault(why, []).append(str(cell.number))
        return [
            f"Not compared with the reference: {', '.join(numbers)} ({why})."
            for why, numbers in lacking.items()
        ]
    baselines = {cell.baseline.label for cell in cells if cell.baseline}
    if len(baselines) > 1:
        return [
            "Quality is the distance to each cell's own baseline, and the baselines "
            f"({', '.join(sorted(baselines))}) are not compared with each other."
        ]
    return []


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


def quality(cell: Cell) -> str:
    """` at PSNR 24.1 dB`, `, identical pictures`; nothing where nothing was compared."""
    if cell.psnr is None or not cell.comparison:
        return ""
    return f" at PSNR {decibels(cell.psnr)}" if cell.psnr < float("inf") else ", identical pictures"


def _in_quality(cell: Cell, best: Cell) -> list[str]:
    """The runner-up's quality measure beside the best cell's, prompt by prompt, in words."""
    found, _ = by_prompt.pairs(cell, best)
    return [
        f"PSNR of the runner-up is {paired.sentence(each)}"
        for each in found
        if each.metric == by_prompt.MEASURE
    ]


def _beside(cell: Cell, best: Cell) -> str:
    text = f"{cell.label}, {figure(cell)}{quality(cell)}"
    if cell.speed and best.speed:
        text += f", {cell.speed / best.speed:.2f} times the speed"
    return text
