"""What the templates of the page show, worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from sdxl.report import by_prompt, curve, seeds, work
from sdxl.report.cell import Cell, surroundings
from sdxl.report.choose import Answer
from sdxl.report.html import plot
from sdxl.report.html.pictures import Grid, grid
from sdxl.report.html.plot import Plot
from sdxl.report.text import MAIN, results
from sdxl.report.values import DASH, decibels, flatten, number, rate

ACROSS = 5
"""Figures beside a setting's name that a printed page has room for."""
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
        """Was any cell compared with a reference or its baseline?"""
        return any(cell.comparison for cell in self.cells)

    @property
    def quantized(self) -> bool:
        """Is any cell quantized?"""
        return any(cell.quantized for cell in self.cells)

    @cached_property
    def more(self) -> list[tuple[list[str], list[list[str]]]]:
        """(head, rows) of what stands beside the results, in tables that fit on paper."""
        head, rows = results(self.cells)
        places = [n for n, name in enumerate(head) if name not in MAIN]
        parts = [places[start : start + ACROSS] for start in range(0, len(places), ACROSS)]
        return [([head[n] for n in part], [[row[n] for n in part] for row in rows])
                for part in parts]  # fmt: skip

    @property
    def longest_ms(self) -> float:
        """The end of the scale of latencies."""
        found = (c.latency.get("max") or c.latency.get("p99", 0.0) for c in self.cells)
        return max(found, default=0.0)

    @cached_property
    def plots(self) -> list[Plot]:
        """Quality, or latency, against speed and costs."""
        return plot.of(self.cells)

    @cached_property
    def curves(self) -> list[tuple[Cell, str, Markup, list[list[str]]]]:
        """(cell, what is said of it, drawing, table) of each cell with a load curve."""
        having = [cell for cell in self.cells if curve.points(cell.record)]
        return [
            (c, curve.sentence(c.record), plot.load_curve(c), curve.rows(c.record)) for c in having
        ]

    @cached_property
    def seeds(self) -> tuple[list[str], list[list[str]]]:
        """(head, rows) of settings with several seeds."""
        return seeds.table(self.cells)

    @cached_property
    def by_prompt(self) -> tuple[list[str], list[list[str]]]:
        """(head, rows): every other cell beside the answer's, in what tells them apart."""
        return by_prompt.table(self.cells, self.answer.anchor, brief=True)

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
    if cell.psnr is not None:
        figure, _, unit = decibels(cell.psnr).partition(" ")
        found.append((figure, unit, f"PSNR to the {cell.compared_with}"))
    if cell.memory_gib:
        found.append((f"{cell.memory_gib:.2f}", "GiB", f"peak memory, {cell.memory_kind}"))
    if short := work.of(cell.record):
        found.append((f"{short.share:.0%}", "", f"of closed rules' operations, {short.shortcut}"))
    if cell.joules:
        found.append((f"{cell.joules:,.4g}", "J", "energy of an image"))
    if cell.price:
        found.append((f"{cell.price:,.4g}", "", "price of 1,000 images"))
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
