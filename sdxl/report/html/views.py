"""What the templates of the page show, worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sdxl.report import seeds
from sdxl.report.cells import Cell, other_scores, surroundings
from sdxl.report.choose import Answer
from sdxl.report.html.pictures import Grid, grid
from sdxl.report.html.plot import Plot, plot
from sdxl.report.values import DASH, flatten, number, rate

LAYERS = 10
"""Rows of the table of the worst layers."""
_POWER = ("power", "watt", "joule", "energy")


@dataclass(frozen=True)
class LayerRow:
    """A layer's relative output error in each of some cells; None where it was not quantized."""

    name: str
    largest: float
    errors: list[float | None]


@dataclass
class Group:
    """Cells that did the same work, and what is said of them."""

    title: str
    cells: list[Cell]
    answer: Answer
    prompts: int  # rows of pictures

    @property
    def compared(self) -> bool:
        """Was any cell compared with its baseline?"""
        return any(cell.against_baseline for cell in self.cells)

    @property
    def quantized(self) -> bool:
        """Is any cell quantized?"""
        return any(cell.quantized for cell in self.cells)

    @property
    def scores(self) -> list[str]:
        """Names of scores beside PSNR and SSIM."""
        return sorted({name for cell in self.cells for name in other_scores(cell)})

    @property
    def refused(self) -> dict[int, str]:
        """The limits that cells break, by their numbers."""
        return {cell.number: reason for cell, reason in self.answer.refused}

    @property
    def longest_ms(self) -> float:
        """The end of the scale of latencies."""
        found = (c.latency.get("max") or c.latency.get("p99", 0.0) for c in self.cells)
        return max(found, default=0.0)

    @cached_property
    def plot(self) -> Plot | None:
        """Speed against loss or latency."""
        return plot(self.cells)

    @cached_property
    def seeds(self) -> tuple[list[str], list[list[str]]]:
        """(head, rows) of settings with several seeds."""
        return seeds.table(self.cells)

    @cached_property
    def pictures(self) -> Grid:
        """The kept pictures."""
        return grid(self.cells, self.prompts)

    @cached_property
    def power(self) -> tuple[list[str], dict[int, dict[str, float]]]:
        """Names of power and energy figures, and those of each cell by its number."""
        found = {cell.number: _power_of(cell) for cell in self.cells}
        return sorted({name for each in found.values() for name in each}), found

    @cached_property
    def layers(self) -> tuple[list[Cell], list[LayerRow]]:
        """Cells with a layer report, and the layers of largest error in any of them."""
        tables = {cell.number: _errors(cell) for cell in self.cells}
        having = [cell for cell in self.cells if tables[cell.number]]
        names = {name for each in tables.values() for name in each}
        found = [
            LayerRow(name, max(each.get(name, 0.0) for each in tables.values()),
                  [tables[cell.number].get(name) for cell in having])
            for name in names
        ]  # fmt: skip
        return having, sorted(found, key=lambda layer: (-layer.largest, layer.name))[:LAYERS]


def key_figures(cell: Cell) -> list[tuple[str, str, str]]:
    """(value, unit, name) of the best cell's numbers."""
    found = []
    if cell.speed:
        found.append((rate(cell.speed), "images/s", "throughput"))
    if cell.speed_up:
        found.append((f"{cell.speed_up:.2f}", "x", "over its unquantized baseline"))
    if cell.latency.get("p99") and cell.setting("scenario.name") != "Offline":
        found.append((f"{cell.latency['p99']:,.4g}", "ms", "99th percentile"))
    if cell.psnr:
        found.append((f"{cell.psnr:.1f}", "dB", "PSNR to the baseline"))
    if cell.memory_gib:
        found.append((f"{cell.memory_gib:.2f}", "GiB", f"peak memory, {cell.memory_kind}"))
    return found


def speed(cell: Cell) -> str:
    """Images per second, with the range of repetitions."""
    text = rate(cell.speed) if cell.speed else DASH
    if len(cell.repeats) > 1:
        text += f" ({min(cell.repeats):,.4g} to {max(cell.repeats):,.4g})"
    return text


Facts = list[tuple[str, Any]]


def environments(cells: Sequence[Cell]) -> tuple[Facts, Facts]:
    """Facts in which measured cells differ, with the cells by value; facts that all share."""
    facts = [flatten(surroundings(cell)) for cell in cells]
    differing: Facts = []
    same: Facts = []
    for key in dict.fromkeys(key for each in facts for key in each):
        values: dict[str, list[Cell]] = {}
        for cell, each in zip(cells, facts, strict=True):
            if cell.measured and each:
                values.setdefault(_text(each.get(key)), []).append(cell)
        name = key.replace("packages.", "").replace("_", " ")
        if len(values) > 1:
            differing.append((name, values))
        elif values:
            same.append((name, next(iter(values))))
    return differing, same


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    return str(value)


def _errors(cell: Cell) -> dict[str, float]:
    rows = cell.record.quality.layer_errors
    return {row.layer: row.error for row in rows if row.error is not None}


def _power_of(cell: Cell) -> dict[str, float]:
    whole = {**cell.record.performance.to_json(), **cell.record.resources.to_json()}
    whole.pop("loadgen", None)
    flat = ((name, number(value)) for name, value in flatten(whole).items())
    return {name: value for name, value in flat
            if value is not None and any(word in name.lower() for word in _POWER)}  # fmt: skip
