"""Charts as inline SVG: a scatter in two widths (the page shows one), bars and latency strips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdxl.report.cells import Cell
from sdxl.report.html.markup import Markup, h
from sdxl.report.values import milliseconds

LARGEST, LEAST = 15.0, 5.0
"""Radii in pixels of the cell with most memory, and of any cell at least."""
PADDING = 18.0
STRIP = 46


@dataclass(frozen=True)
class Point:
    """One cell in a scatter; `title` is what a pointer or a screen reader gets."""

    cell: Cell
    x: float
    y: float
    title: str
    leading: bool = False  # on the Pareto front

    @property
    def hollow(self) -> bool:
        """Its speed means nothing."""
        return bool(self.cell.meaningless)


@dataclass(frozen=True)
class Frame:
    """Where data goes on a drawing of `width` x `height` pixels."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int = 52
    bottom: int = 46
    top: int = 12
    right: int = 14
    strip: int = 0  # pixels at the foot for points at exactly zero, apart from the scale

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        room = self.width - self.left - self.right - 2 * PADDING
        return self.left + PADDING + room * (value - low) / ((high - low) or 1)

    def y(self, value: float) -> float:
        """Pixels from the top; larger values are higher."""
        low, high = self.y_range
        base = self.height - self.bottom - PADDING
        if self.strip and value == 0:
            return base
        room = base - self.strip - self.top - PADDING
        return base - self.strip - room * (value - low) / ((high - low) or 1)


def scatter(points: Sequence[Point], x_name: str, y_name: str, summary: str) -> Markup:
    """Speed against loss or latency, size of point = memory; wide and narrow drawings."""
    both = ((720, 400, "wide"), (350, 340, "narrow"))
    return h("div", [_scatter(points, x_name, y_name, summary, *each) for each in both],
             class_="plot")  # fmt: skip


def _scatter(
    points: Sequence[Point],
    x_name: str,
    y_name: str,
    summary: str,
    width: int,
    height: int,
    kind: str,
) -> Markup:
    above = [p.y for p in points if p.y]
    apart = len(above) < len(points) and bool(above) and min(above) > max(above) / 2
    y_range = extent(above if apart else [p.y for p in points])
    x_range = extent([p.x for p in points], 4)
    frame = Frame(width, height, x_range, y_range, strip=STRIP if apart else 0)
    most = max((p.cell.memory_gib or 0.0 for p in points), default=0.0) or 1.0
    radius = {
        id(p): max(LEAST, LARGEST * math.sqrt((p.cell.memory_gib or 0.0) / most)) for p in points
    }
    largest_first = sorted(points, key=lambda p: -radius[id(p)])
    return h(
        "svg",
        h("title", summary),
        _axes(frame, x_name, y_name, 6 if width > 500 else 4),
        _steps(frame, [p for p in points if p.leading]),
        [_mark(frame, p, radius[id(p)]) for p in largest_first],
        _numbers(frame, largest_first, radius),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=summary,
        class_=kind,
    )


def _axes(frame: Frame, x_name: str, y_name: str, count: int) -> list[Markup]:
    base, end = frame.height - frame.bottom, frame.width - frame.right
    found = []
    across = ticks(*frame.x_range, count)
    for value in across:
        x = f"{frame.x(value):.1f}"
        found.append(h("line", x1=x, x2=x, y1=frame.top, y2=base, class_="grid"))
        found.append(h("text", tick(value, across), x=x, y=base + 17, text_anchor="middle"))
    if frame.strip:  # the scale is broken between zero and the least loss
        cut = base - PADDING - frame.strip / 2
        found += [h("line", x1=frame.left - 4, x2=frame.left + 4, y1=cut + shift + 3,
                    y2=cut + shift - 3, class_="cut") for shift in (-3, 3)]  # fmt: skip
    upward = ticks(*frame.y_range, 5)
    for value in [*([0.0] if frame.strip else []), *upward]:
        y = frame.y(value)
        found.append(h("line", x1=frame.left, x2=end, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        found.append(
            h("text", tick(value, upward), x=frame.left - 8, y=f"{y + 4:.1f}", text_anchor="end")
        )
    found.append(h("text", x_name, x=end, y=frame.height - 8, text_anchor="end", class_="axis"))
    middle = (frame.top + base) / 2
    found.append(
        h("text", y_name, transform=f"translate(13 {middle:.0f}) rotate(-90)",
          text_anchor="middle", class_="axis")
    )  # fmt: skip
    return found


def _steps(frame: Frame, leading: Sequence[Point]) -> Markup | None:
    """The Pareto front as stairs: the least loss that each speed costs."""
    order = sorted(leading, key=lambda p: p.x)
    if len(order) < 2:
        return None
    path = f"M{frame.x(order[0].x):.1f} {frame.y(order[0].y):.1f}"
    for other in order[1:]:
        path += f"V{frame.y(other.y):.1f}H{frame.x(other.x):.1f}"
    return h("path", d=path, class_="front")


def _mark(frame: Frame, point: Point, radius: float) -> Markup:
    x, y = frame.x(point.x), frame.y(point.y)
    kind = "hollow" if point.hollow else ("lead" if point.leading else "dot")
    title = h("title", point.title)
    if point.cell.quantized:
        return h("circle", title, cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", class_=kind)
    side = radius * math.sqrt(math.pi)  # the same area as the circle
    place = {"x": f"{x - side / 2:.1f}", "y": f"{y - side / 2:.1f}"}
    return h("rect", title, **place, width=f"{side:.1f}", height=f"{side:.1f}", class_=kind)


def _numbers(frame: Frame, points: Sequence[Point], radius: dict[int, float]) -> list[Markup]:
    """Each cell's number beside its mark, where it covers no other mark or number."""
    taken = [(frame.x(p.x), frame.y(p.y), radius[id(p)]) for p in points]
    found = []
    for point in points:
        x, y, away = frame.x(point.x), frame.y(point.y), radius[id(point)] + 9
        spots = [
            (x + away * reach * math.cos(angle), y + away * reach * math.sin(angle))
            for reach in (1.0, 1.5, 2.0)
            for angle in (-0.8, 0.8, -2.4, 2.4, 0.0, math.pi, -1.57, 1.57)
        ]
        free = [s for s in spots if _inside(frame, s) and not _covered(s, taken)]
        spot = (free or spots)[0]
        taken.append((*spot, 7.0))
        text = {"x": f"{spot[0]:.1f}", "y": f"{spot[1] + 4:.1f}", "text_anchor": "middle"}
        found.append(h("text", str(point.cell.number), **text, class_="number"))
    return found


def _inside(frame: Frame, spot: tuple[float, float]) -> bool:
    across = frame.left + 6 < spot[0] < frame.width - 8
    return across and frame.top < spot[1] < frame.height - frame.bottom - 4


def _covered(spot: tuple[float, float], taken: Sequence[tuple[float, float, float]]) -> bool:
    return any(math.hypot(spot[0] - x, spot[1] - y) < size + 6 for x, y, size in taken)


def bars(rows: Sequence[tuple[Cell, float, str]], mark: float | None = None) -> Markup:
    """Horizontal bars from zero: (cell, value, text); `mark` draws a line, such as 1.0 times."""
    most = max([value for _, value, _ in rows] + [mark or 0.0]) or 1.0
    found = []
    for cell, value, text in rows:
        drawing = [
            h("rect", x=0, y=3, width=f"{value / most * 100:.2f}%", height=10, rx=2,
              class_="hollow" if cell.meaningless else "bar"),
        ]  # fmt: skip
        if mark:
            at = f"{mark / most * 100:.2f}%"
            drawing.append(h("line", x1=at, x2=at, y1=0, y2=16, class_="mark"))
        found.append(_row(cell, drawing, text))
    return h("div", found, class_="bars")


def strips(cells: Sequence[Cell]) -> Markup:
    """Latency of each cell on one scale: line least to most, box p50 to p99, tick at p90."""
    most = max((c.latency.get("max") or c.latency.get("p99", 0.0) for c in cells), default=0.0)
    return h("div", [_strip(cell, most or 1.0) for cell in cells if cell.latency], class_="bars")


def _strip(cell: Cell, most: float) -> Markup:
    found = cell.latency

    def at(name: str) -> str:
        return f"{(found.get(name) or 0.0) / most * 100:.2f}%"

    low, high = found.get("p50", 0.0), found.get("p99", 0.0)
    box = f"{max(0.4, (high - low) / most * 100):.2f}%"
    drawing = [
        h("line", x1=at("min" if "min" in found else "p50"), x2=at("max"), y1=8, y2=8,
          class_="whisker"),
        h("rect", x=at("p50"), y=3, width=box, height=10, class_="box"),
        h("line", x1=at("p90"), x2=at("p90"), y1=3, y2=13, class_="mark"),
    ]  # fmt: skip
    return _row(cell, drawing, f"{milliseconds(low)} / {milliseconds(high)} ms")


def _row(cell: Cell, drawing: list[Markup], text: str) -> Markup:
    return h(
        "div",
        h("span", badge(cell), " ", cell.label, class_="name"),
        h("svg", drawing, width="100%", height=16, role="img", aria_label=text),
        h("span", text, class_="value"),
        class_="row",
    )


def badge(cell: Cell) -> Markup:
    """The cell's number as it stands in the plots."""
    return h("b", str(cell.number), class_="badge")


def extent(values: Sequence[float], share: float = 2) -> tuple[float, float]:
    """Least and largest, down to zero where the least is under 1/share of the largest."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = 0.0 if low <= high / share else low
    return (low, high) if high > low else (low * 0.9, high * 1.1 or 1.0)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between low and high, about `count` of them."""
    raw = (high - low) / max(1, count)
    if raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick(value: float, all_: Sequence[float]) -> str:
    """A tick's text, with as many decimals as the finest of them needs; zero is just 0."""
    decimals = max((len(f"{v:.6g}".partition(".")[2]) for v in all_), default=0)
    return f"{value:,.{decimals}f}" if value else "0"
