"""The user's limits: what a cell must keep to be chosen, and how far it is from each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from sdxl.report.cell import Cell
from sdxl.report.values import decibels


@dataclass(frozen=True)
class Bound:
    """One figure that can be limited; `of_speed`: it means nothing of simulated arithmetic."""

    name: str  # of the field of `Limits`
    what: str
    unit: str
    value: Callable[[Cell], float | None]
    least: bool = False
    of_speed: bool = False

    def measured(self, cell: Cell) -> float | None:
        """The figure of a cell; None where it was not measured, or means nothing."""
        return None if self.of_speed and cell.meaningless else self.value(cell)

    def keeps(self, cell: Cell, limit: float) -> bool:
        """Is the figure there, and not beyond the limit?"""
        found = self.measured(cell)
        return found is not None and (found >= limit if self.least else found <= limit)

    def better(self, cell: Cell, other: Cell) -> bool:
        """Would a stricter limit drop `other` and keep `cell`?"""
        one, two = self.measured(cell), self.measured(other)
        return one is not None and two is not None and (one > two if self.least else one < two)

    def form(self, value: float) -> str:
        """A figure with its unit."""
        if self.name == "min_psnr":
            return decibels(value)
        return f"{value:,.4g}{self.unit}"

    def asked(self, limit: float) -> str:
        """The limit in words."""
        return f"{self.what} at {'least' if self.least else 'most'} {limit:g}{self.unit}"


BOUNDS = (
    Bound("min_psnr", "PSNR", " dB", lambda cell: cell.psnr, least=True),
    Bound("min_ssim", "SSIM", "", lambda cell: 1.0 if cell.psnr == math.inf else cell.ssim,
          least=True),
    Bound("min_accuracy", "attribute accuracy", "", lambda cell: cell.accuracy, least=True),
    Bound("min_rate", "speed", " images/s", lambda cell: cell.speed, least=True, of_speed=True),
    Bound("max_latency_ms", "p99", " ms", lambda cell: cell.latency.get("p99"), of_speed=True),
    Bound("max_memory_gib", "memory", " GiB", lambda cell: cell.memory_gib),
    Bound("max_joules", "energy", " J an image", lambda cell: cell.joules, of_speed=True),
    Bound("max_price", "price", " per 1,000 images", lambda cell: cell.price, of_speed=True),
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a cell must keep to be chosen; None asks nothing."""

    min_psnr: float | None = None  # dB to the reference, else to the baseline
    min_ssim: float | None = None
    min_accuracy: float | None = None  # share of the attributes asked for that the judge finds
    min_rate: float | None = None  # images per second
    max_latency_ms: float | None = None  # of the 99th percentile
    max_memory_gib: float | None = None
    max_joules: float | None = None  # an image
    max_price: float | None = None  # of a thousand images, in the currency of cost.per_hour

    def given(self) -> Iterator[tuple[Bound, float]]:
        """Each bound that is set, and its limit."""
        for bound in BOUNDS:
            if (limit := getattr(self, bound.name)) is not None:
                yield bound, limit

    def broken(self, cell: Cell) -> list[str]:
        """The limits that a cell breaks, in words; what was not measured cannot be kept."""
        return [
            _why(bound, cell, limit)
            for bound, limit in self.given()
            if not bound.keeps(cell, limit)
        ]

    def margins(self, cell: Cell) -> list[str]:
        """How far a cell that keeps them is from each."""
        return [
            _margin(bound, found, limit)
            for bound, limit in self.given()
            if (found := bound.measured(cell)) is not None
        ]

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))

    def __str__(self) -> str:
        return ", ".join(bound.asked(limit) for bound, limit in self.given())


def _why(bound: Bound, cell: Cell, limit: float) -> str:
    found = bound.measured(cell)
    if found is None:
        doubt = f": {cell.meaningless}" if bound.of_speed and cell.meaningless else ""
        return f"{bound.what} was not measured{doubt}"
    words = "at least" if bound.least else "at most"
    return f"{bound.what} {bound.form(found)}, {words} {limit:g}{bound.unit} asked"


def _margin(bound: Bound, found: float, limit: float) -> str:
    text = f"{bound.what} {bound.form(found)}"
    if math.isinf(found):
        return text
    gap = abs(found - limit)
    share = f" ({gap / limit:.0%})" if limit and bound.name != "min_psnr" else ""
    side = "above" if bound.least else "below"
    return f"{text}, {gap:.3g}{bound.unit}{share} {side} the limit"
