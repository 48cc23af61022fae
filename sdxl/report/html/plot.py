"""The plot of a group in the page: matplotlib's SVG, in the page's own colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdxl.report import curve, plots
from sdxl.report.axes import COSTS
from sdxl.report.cell import Cell
from sdxl.report.plots import Scatter
from sdxl.report.text import psnr_text
from sdxl.report.values import rate

_COLOURS = {plots.ACCENT: "var(--accent)", plots.SOFT: "var(--soft)", plots.WARM: "var(--warm)",
            plots.INK: "currentColor", plots.LINE: "var(--line)"}  # fmt: skip
NO_BASELINE = "No quality axis: no cell was compared with a reference or a baseline."


@dataclass(frozen=True)
class Plot:
    """A drawing with its title and the words beneath it."""

    scatter: Scatter
    caption: list[str]

    @property
    def title(self) -> str:
        """What is drawn against what."""
        return self.scatter.title

    def svg(self, width: int, height: int, kind: str) -> Markup:
        """The drawing at a size in pixels; the page shows the `kind` that fits its width."""
        drawn = _slim(plots.svg(self.scatter, width, height))
        for colour, name in _COLOURS.items():
            drawn = drawn.replace(colour, name)
        # Ids are one for the whole page, which has this drawing in two sizes.
        place = f"{kind}-{self.scatter.axis.name}-{self.scatter.points[0][0].number}-"
        drawn = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{place}", drawn)
        for cell, _ in self.scatter.points:
            mark = f'<g id="{place}{plots.mark_id(cell)}">'
            drawn = drawn.replace(mark, f"{mark}<title>{escape(_title(cell))}</title>")
        said = f"{self.title} of {len(self.scatter.points)} cells; the table has the numbers"
        head = (
            f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{said}"><title>{said}</title>'
        )
        return Markup(head + drawn)  # noqa: S704 (labels are escaped, the rest is ours)


def _slim(drawn: str) -> str:
    """What is inside matplotlib's `<svg>` and its end, without what the page has no use for."""
    drawn = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 .*?\"", "", drawn)
    drawn = re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.2f}", drawn)
    used = {*re.findall(r"#([\w.-]+)", drawn), *re.findall(r'"(cell-\d+)"', drawn)}
    drawn = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", drawn)
    return re.sub(r"\s+", " ", drawn).replace("> <", "><").strip()


def load_curve(cell: Cell) -> Markup:
    """A cell's latency against the rate of requests, in the page's colours."""
    drawn = _slim(curve.svg(cell.record))
    for colour, name in _COLOURS.items():
        drawn = drawn.replace(colour, name)
    place = f"curve-{cell.number}-"
    drawn = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{place}", drawn)
    width, height = curve.SIZE
    said = escape(f"{cell.label}: {curve.sentence(cell.record)}")
    head = f'<svg class="load" viewBox="0 0 {width} {height}" role="img" aria-label="{said}">'
    return Markup(f"{head}<title>{said}</title>{drawn}")  # noqa: S704 (labels are escaped)


def of(cells: Sequence[Cell]) -> list[Plot]:
    """The plots of a group: against speed, and against each cost that its records have."""
    return [_plot(scatter) for scatter in plots.scatters(cells)]


def _plot(scatter: Scatter) -> Plot:
    words = [_legend(scatter)]
    if not scatter.judged:
        words.append(NO_BASELINE)
    if scatter.missing:
        numbers = ", ".join(str(cell.number) for cell in scatter.missing)
        words.append(f"Not drawn, since not compared: {numbers}.")
    if scatter.lacking:
        numbers = ", ".join(str(cell.number) for cell in scatter.lacking)
        words.append(f"Not drawn, since their {scatter.axis.name} is not known: {numbers}.")
    return Plot(scatter, words)


def _title(cell: Cell) -> str:
    """What a pointer or a screen reader gets of a mark."""
    text = f"{cell.number} {cell.label}: {rate(cell.speed or 0.0)} images/s"
    text += f", PSNR {psnr_text(cell)}" if cell.psnr is not None else ""
    text += f", {cell.memory_gib:.2f} GiB" if cell.memory_gib else ""
    costs = ((axis.value(cell), axis.unit) for axis in COSTS)
    text += "".join(f", {value:,.4g} {unit}" for value, unit in costs if value)
    return f"{text} ({cell.meaningless})" if cell.meaningless else text


def _legend(scatter: Scatter) -> str:
    cells = [cell for cell, _ in scatter.points]
    side = "Upper" if scatter.judged else "Lower"
    end = "left" if scatter.axis.less else "right"
    parts = [f"{side} {end} is better; numbers are those of the table."]
    sizes = [cell.memory_gib for cell in cells if cell.memory_gib]
    if sizes:
        parts.append(f"Area is peak memory, at most {max(sizes):.2f} GiB.")
    if any(not cell.quantized for cell in cells):
        parts.append("Squares are unquantized.")
    if scatter.judged and any(math.isinf(y) for _, y in scatter.points):
        parts.append(
            f"At the top: no pixel differs from the {cells[0].compared_with}, or it is it."
        )
    if any(cell.meaningless for cell in cells):
        parts.append(
            f"Dashed: simulated or without a model, so the {scatter.axis.name} means nothing."
        )
    if len(scatter.leading) > 1:
        parts.append("The stairs are the Pareto front.")
    return " ".join(parts)
