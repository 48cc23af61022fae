"""Every plot, by matplotlib: PNG files for people without a browser, SVG for the page."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.core.record import Performance
from sdxl.core.store import disk_error
from sdxl.report.axes import COSTS, SPEED, Axis
from sdxl.report.cell import Cell
from sdxl.report.cells import Cells
from sdxl.report.choose import front

ACCENT, SOFT, WARM = "#0b5f5a", "#8a929a", "#a4481c"
INK, LINE = "#1d2126", "#e2dfd9"  # of text, of the grid
LARGEST, LEAST = 15.0, 5.0
"""Radii in points of the mark with most memory, and of any mark at least."""
WIDTH, HEIGHT = 720, 400
"""Of a PNG, in points of 1/72 inch."""
STEPS = [1, 2, 2.5, 5, 10]
"""Of ticks."""
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "sdxl", "text.parse_math": False, "font.size": 12,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": LINE, "grid.color": LINE, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "axes.titlesize": 12,
    "axes.titlelocation": "left", "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.major.pad": 6, "ytick.major.pad": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Scatter:
    """Cells by speed, or a cost, and by PSNR in dB; by latency in ms where nothing was compared."""

    points: list[tuple[Cell, float]]
    judged: bool  # y is the PSNR, infinite where no pixel differs
    leading: list[Cell]  # the Pareto front
    missing: list[Cell]  # not compared with anything
    axis: Axis = SPEED
    lacking: tuple[Cell, ...] = ()  # without a figure of a cost

    @property
    def title(self) -> str:
        """What is drawn against what."""
        return f"{'Quality' if self.judged else 'Latency'} against {self.axis.name}"

    @property
    def y_name(self) -> str:
        """Of the axis, with its unit."""
        if not self.judged:
            return "p99 latency, ms"
        return f"PSNR to the {self.points[0][0].compared_with}, dB"


def scatters(cells: Sequence[Cell]) -> list[Scatter]:
    """Everything to draw of a group: by speed, and by each cost that its records have."""
    found = [scatter_of(cells), *(_by_cost(cells, axis) for axis in COSTS)]
    return [scatter for scatter in found if scatter]


def _by_cost(cells: Sequence[Cell], axis: Axis) -> Scatter | None:
    having = [cell for cell in cells if axis.value(cell)]
    judged = [(cell, cell.psnr) for cell in having if cell.psnr is not None]
    if not any(cell.comparison for cell, _ in judged):
        return None
    missing = [cell for cell in having if cell.psnr is None]
    lacking = tuple(cell for cell in cells if not axis.value(cell))
    return Scatter(judged, True, front(having, axis), missing, axis, lacking)


def scatter_of(cells: Sequence[Cell]) -> Scatter | None:
    """What to draw by speed; None where there is no quality, and latency of fewer than two."""
    timed = [cell for cell in cells if cell.speed]
    judged = [(cell, cell.psnr) for cell in timed if cell.psnr is not None]
    if any(cell.comparison for cell, _ in judged):
        missing = [cell for cell in timed if cell.psnr is None]
        return Scatter(judged, True, front(timed), missing)
    points = [(cell, cell.latency["p99"]) for cell in timed if cell.latency.get("p99")]
    return Scatter(points, False, [], []) if len(points) > 1 else None


def draw(found: Cells, folder: Path) -> list[Path]:
    """`speed-N.png`, `pareto-N.png`, `pareto-energy-N.png`, ... of each group; their paths."""
    written = []
    for count, (title, cells) in enumerate(found.groups.items(), 1):
        timed = [cell for cell in cells if cell.speed]
        if timed:
            with axes_of(title, WIDTH, 90 + 24 * len(timed)) as axes:
                _speed(axes, timed)
            written.append(save(axes, folder / f"speed-{count}.png"))
        for scatter in (each for each in scatters(cells) if each.judged):
            axis, judged = scatter.axis, [cell for cell, _ in scatter.points]
            with axes_of(title, WIDTH, HEIGHT) as axes:
                _scatter(axes, scatter)
                axes.set_xlabel(f"{axis.unit}{_doubt(judged)}")
                key = "\n".join(f"{cell.number:>2}  {cell.label}" for cell, _ in scatter.points)
                axes.text(1.03, 1, key, transform=axes.transAxes, va="top", linespacing=1.5)
            name = "pareto" if axis is SPEED else f"pareto-{axis.name}"
            written.append(save(axes, folder / f"{name}-{count}.png"))
    return written


def svg(scatter: Scatter, width: int, height: int) -> str:
    """The scatter as SVG of that size; its marks have the ids `mark_id`."""
    target = io.StringIO()
    with axes_of("", width, height) as axes:
        left, bottom, right, top = 56 / width, 48 / height, 1 - 14 / width, 1 - 12 / height
        axes.set_position((left, bottom, right - left, top - bottom))
        _scatter(axes, scatter)
        axes.figure.savefig(target, format="svg", transparent=True)
    return target.getvalue()


def latencies(performance: Performance, title: str, path: Path) -> Path:
    """The histogram of a measurement's latencies, with its percentiles."""
    found = performance.latency_histogram
    with axes_of(title, 576, 230) as axes:
        axes.stairs(found["counts"], found["edges_ms"], fill=True, color=ACCENT, alpha=0.8)
        for name in ("p50", "p90", "p99"):
            value = performance.latency_ms.get(name)
            if value is not None:
                axes.axvline(value, color=WARM, linewidth=1)
                axes.annotate(name, (value, 1), xycoords=("data", "axes fraction"), fontsize=8,
                              xytext=(2, -9), textcoords="offset points", color=WARM)  # fmt: skip
        axes.set_xlabel("latency of a sample, ms")
        axes.set_ylabel("samples")
    return save(axes, path)


def mark_id(cell: Cell) -> str:
    """The id of a cell's mark in the SVG."""
    return f"cell-{cell.number}"


@contextmanager
def axes_of(title: str, width: int, height: int) -> Iterator[Any]:
    """Axes of a size in points, in our style; at 72 dpi a pixel is a point."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        axes = Figure(figsize=(width / 72, height / 72), dpi=72).add_subplot()
        axes.set_title(title)
        yield axes


def save(axes: Any, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        axes.figure.savefig(path, dpi=130, bbox_inches="tight")
    except OSError as error:
        raise disk_error(error, path) from error
    return path


def _scatter(axes: Any, scatter: Scatter) -> None:
    """Area is memory, squares are unquantized, numbers are those of a table beside it."""
    most = max((cell.memory_gib or 0.0 for cell, _ in scatter.points), default=0.0) or 1.0
    height = _scales(axes, scatter)
    axes.set_xlabel(scatter.axis.label, loc="left" if scatter.axis.less else "right")
    axes.set_ylabel(scatter.y_name)
    axes.grid()
    marks = [
        (cell, scatter.axis.value(cell) or 0.0, height(y),
         max(LEAST, LARGEST * math.sqrt((cell.memory_gib or 0.0) / most)))
        for cell, y in scatter.points
    ]  # fmt: skip
    marks.sort(key=lambda mark: -mark[-1])
    for cell, x, y, radius in marks:
        _mark(axes, cell, x, y, radius, cell in scatter.leading)
    stairs = sorted((x, y) for cell, x, y, _ in marks if cell in scatter.leading)
    if len(stairs) > 1:  # the best quality at each speed, or for each cost
        where: Any = "post" if scatter.axis.less else "pre"
        axes.step(*zip(*stairs, strict=True), where=where, color=ACCENT, alpha=0.6, zorder=2)
    spots = axes.transData.transform([(x, y) for _, x, y, _ in marks])
    placed = zip(marks, spots, strict=True)
    _numbers(axes, [(cell, *spot, radius) for (cell, _, _, radius), spot in placed])


def _mark(axes: Any, cell: Cell, x: float, y: float, radius: float, leading: bool) -> None:
    from matplotlib.colors import to_rgba

    colour = WARM if cell.meaningless else ACCENT if leading else SOFT
    share = 0.1 if cell.meaningless else 0.75 if leading else 0.4
    area = (4 if cell.quantized else math.pi) * radius**2  # of the square around the mark
    mark = axes.scatter(
        x, y, s=area, marker="o" if cell.quantized else "s", edgecolors=colour, zorder=3,
        facecolors=to_rgba(colour, share), linestyle="--" if cell.meaningless else "-",
    )  # fmt: skip
    mark.set_gid(mark_id(cell))


def _scales(axes: Any, scatter: Scatter) -> Callable[[float], float]:
    """Set both scales; returns where a PSNR or latency is drawn.

    Identical pictures, whose PSNR is infinite, stand at the top, above a break in the scale.
    """
    from matplotlib.ticker import MaxNLocator

    low, high = _extent([scatter.axis.value(cell) or 0.0 for cell, _ in scatter.points], 4)
    room = 0.07 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(max(4, axes.bbox.width // 90), steps=STEPS))
    finite = [y for _, y in scatter.points if math.isfinite(y)]
    low, high = _extent(finite, 2)
    room = 0.08 * (high - low)
    if len(finite) == len(scatter.points):
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        return lambda y: y
    top = high + 3.5 * room
    axes.set_ylim(low - room, top + room)
    shown = [
        tick
        for tick in MaxNLocator(5, steps=STEPS).tick_values(low, high)
        if low - room < tick < high + room
    ]
    axes.set_yticks([*shown, top], [*(f"{tick:g}" for tick in shown), "same"])
    axes.plot([0, 0], [high + 1.8 * room, high + 2.1 * room], linestyle="none", color=INK,
              marker=[(-1, -0.5), (1, 0.5)], transform=axes.get_yaxis_transform(),
              clip_on=False)  # fmt: skip
    return lambda y: y if math.isfinite(y) else top


def _extent(values: Sequence[float], share: float) -> tuple[float, float]:
    """Least and largest, down to zero where the least is under 1/share of the largest."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = 0.0 if low <= high / share else low
    return (low, high) if high > low else (low * 0.9, high * 1.1 or 1.0)


Spot = tuple[float, float]


def _numbers(axes: Any, marks: Sequence[tuple[Cell, float, float, float]]) -> None:
    """Each cell's number beside its mark (x, y, radius), where it covers no mark or number."""
    taken = [(x, y, radius) for _, x, y, radius in marks]
    for cell, x, y, radius in marks:
        ways = [
            (reach * (radius + 9) * math.cos(angle), reach * (radius + 9) * math.sin(angle))
            for reach in (1.0, 1.5, 2.0)
            for angle in (0.8, -0.8, 2.4, -2.4, 0.0, math.pi, 1.57, -1.57)
        ]
        free = [way for way in ways if _free(axes, (x + way[0], y + way[1]), taken)]
        way = (free or ways)[0]
        taken.append((x + way[0], y + way[1], 7.0))
        axes.annotate(
            str(cell.number), axes.transData.inverted().transform((x, y)), way, fontweight="bold",
            textcoords="offset points", ha="center", va="center", zorder=4,
        )  # fmt: skip


def _free(axes: Any, spot: Spot, taken: Sequence[tuple[float, float, float]]) -> bool:
    inside = axes.bbox.padded(-6).contains(*spot)
    return inside and all(
        math.hypot(spot[0] - x, spot[1] - y) >= size + 6 for x, y, size in taken
    )  # fmt: skip


def _speed(axes: Any, cells: Sequence[Cell]) -> None:
    shown = list(reversed(cells))
    bars = axes.barh(
        [f"{cell.number} {cell.label}" for cell in shown],
        [cell.speed for cell in shown],
        color=["none" if cell.meaningless else ACCENT for cell in shown],
        edgecolor=[WARM if cell.meaningless else ACCENT for cell in shown],
    )
    axes.bar_label(bars, fmt="%.4g", padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel(f"images/s{_doubt(cells)}")


def _doubt(cells: Sequence[Cell]) -> str:
    doubtful = any(cell.meaningless for cell in cells)
    return "   (hollow: simulated or no model, means nothing)" if doubtful else ""
