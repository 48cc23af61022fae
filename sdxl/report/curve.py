"""Load curves of records: their points as a table, in characters for a terminal, as SVG and PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.core import terminal
from sdxl.core.record import Record
from sdxl.report import plots
from sdxl.report.values import milliseconds, number, rate

HEAD = ("load", "offered/s", "answered/s", "in limit/s", "p50 ms", "p90 ms", "p99 ms", "requests")
BAR = 12
"""Characters of the longest latency in a terminal."""
SIZE = (720, 340)
"""Of the drawing, in pixels."""


def points(record: Record) -> list[dict[str, Any]]:
    """Its points that have all their figures; a record is not trusted to have them."""
    names = ("asked", "offered", "completed", "goodput", "p50", "p90", "p99", "requests")
    found = record.performance.curve.get("points")
    found = found if isinstance(found, list) else []
    whole = [p for p in found if isinstance(p, dict) and isinstance(p.get("kind"), str)]
    return [each for each in whole if all(number(each.get(name)) is not None for name in names)]


def rows(record: Record) -> list[list[str]]:
    """Under `HEAD`: one line for each point."""
    return [
        [
            f"{each['asked']:g} {each['kind']}" if each["kind"] == "in flight" else each["kind"],
            rate(each["offered"]),
            rate(each["completed"]),
            rate(each["goodput"]),
            *(milliseconds(each[name]) for name in ("p50", "p90", "p99")),
            f"{each['requests']:,}" + (", saturated" if each.get("saturated") else ""),
        ]
        for each in points(record)
    ]


def sentence(record: Record) -> str:
    """Knee, saturation and the best within the limit, in words."""
    found = record.performance.curve
    knee, end, best = (number(found.get(n)) for n in ("knee", "saturated_at", "within_limit"))
    said = f"knee at {rate(knee)} requests/s" if knee else "no knee"
    said += f", saturated at {rate(end)}" if end else ", never saturated"
    limit, share = number(found.get("limit_ms")), number(found.get("percentile"))
    if limit and share:
        within = f"{rate(best)} requests/s" if best else "nothing"
        said += f"; {within} with {100 * share:g} % within {milliseconds(limit)} ms"
    return said


def show(record: Record) -> None:
    """The points and a bar of each p99, on a logarithmic scale, on standard output."""
    found = points(record)
    if not found:
        return
    bars = _bars([each["p99"] for each in found])
    lines = [[*row, bar] for row, bar in zip(rows(record), bars, strict=True)]
    head = (*HEAD, "p99 (log)")
    made = terminal.table(head, lines, sentence(record), {*HEAD} - {"load"})
    terminal.console().print(made)


def _bars(values: Sequence[float]) -> list[str]:
    low, high = math.log(max(min(values), 1e-3)), math.log(max(*values, 2e-3))
    span = max(high - low, 1e-9)
    return ["━" * (1 + round((BAR - 1) * (math.log(max(v, 1e-3)) - low) / span)) for v in values]


def svg(record: Record) -> str:
    """Latency against the rate, as SVG."""
    target = io.StringIO()
    with plots.axes_of("", *SIZE) as axes:
        _draw(axes, record)
        axes.figure.savefig(target, format="svg", transparent=True)
    return target.getvalue()


def png(record: Record, title: str, path: Path) -> Path:
    """The same as a file."""
    with plots.axes_of(title, *SIZE) as axes:
        _draw(axes, record)
    return plots.save(axes, path)


def _draw(axes: Any, record: Record) -> None:
    """Open loop as lines, requests in flight as hollow marks, knee and limit as rules."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    found, facts = points(record), record.performance.curve
    for kind, line in (("rate", True), ("in flight", False), ("trace", False)):
        mine = [each for each in found if each["kind"] == kind]
        mine.sort(key=lambda each: each["offered"])
        for name, colour in (("p50", plots.SOFT), ("p90", plots.INK), ("p99", plots.ACCENT)):
            if not mine:
                continue
            axes.plot(
                [each["offered"] for each in mine],
                [each[name] for each in mine],
                linestyle="-" if line else "none",
                color=colour,
                markersize=5,
                marker={"rate": "o", "in flight": "s", "trace": "D"}[kind],
                markerfacecolor=colour if line else "none",
                label=f"{name}, {kind}" if line or name == "p99" else None,
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    if knee := number(facts.get("knee")):
        axes.axvline(knee, color=plots.WARM, linewidth=1, label=f"knee, {rate(knee)}/s")
    top = max(each["p99"] for each in found)
    if (limit := number(facts.get("limit_ms"))) and limit < 4 * top:
        axes.axhline(limit, color=plots.WARM, linestyle="--", linewidth=1, label="limit")
    axes.set_xlim(left=0)
    axes.set_xlabel("requests/s that arrived", loc="right")
    axes.set_ylabel("latency, ms")
    axes.grid()
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.figure.subplots_adjust(left=0.1, right=0.78, bottom=0.16, top=0.97)
