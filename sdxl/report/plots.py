"""The plots as PNG files, for people without a browser; the only user of matplotlib here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.core.store import disk_error
from sdxl.report.cells import Cell, Cells
from sdxl.report.choose import front

ACCENT, SOFT, WARM = "#0b5f5a", "#8a929a", "#a4481c"


def draw(found: Cells, folder: Path) -> list[Path]:
    """`pareto-N.png` and `speed-N.png` of each group that has such figures; their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for count, (title, cells) in enumerate(found.groups.items(), 1):
        timed = [cell for cell in cells if cell.speed]
        judged = [cell for cell in timed if cell.loss is not None]
        plots: list[tuple[str, Any, Sequence[Cell]]] = [("speed", _speed, timed)]
        if any(cell.quantized for cell in judged):
            plots.append(("pareto", _pareto, judged))
        for name, plot, shown in plots:
            if not shown:
                continue
            figure = Figure(figsize=(8, 4.6 if name == "pareto" else 1.2 + 0.32 * len(shown)))
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            axes.set_title(_plain(title), loc="left", fontsize=11)
            axes.spines[["top", "right"]].set_visible(False)
            plot(axes, shown)
            path = folder / f"{name}-{count}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, dpi=150, bbox_inches="tight")
            except OSError as error:
                raise disk_error(error, path) from error
            written.append(path)
    return written


def latencies(performance: dict[str, Any], title: str, path: Path) -> Path:
    """The histogram of a measurement's latencies, with its percentiles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = performance["latency_histogram"]
    figure = Figure(figsize=(8, 3.2))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(_plain(title), loc="left", fontsize=11)
    axes.stairs(found["counts"], found["edges_ms"], fill=True, color=ACCENT, alpha=0.8)
    for name in ("p50", "p90", "p99"):
        value = (performance.get("latency_ms") or {}).get(name)
        if value is not None:
            axes.axvline(value, color=WARM, linewidth=1)
            axes.annotate(name, (value, 1), xycoords=("data", "axes fraction"), fontsize=8,
                          xytext=(2, -9), textcoords="offset points", color=WARM)  # fmt: skip
    axes.set_xlabel("latency of a sample, ms")
    axes.set_ylabel("samples")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


def _pareto(axes: Any, cells: Sequence[Cell]) -> None:
    """Numbers at the points and their meaning at the side: labels would lie on one another."""
    leading = front(cells)
    most = max((cell.memory_gib or 0.0 for cell in cells), default=0.0) or 1.0
    losses = [cell.loss for cell in cells if cell.loss]
    apart = bool(losses) and min(losses) > max(losses) / 2
    for cell in cells:
        colour = WARM if cell.meaningless else (ACCENT if cell in leading else SOFT)
        if apart and not cell.loss:  # zero would flatten the others: a line at its speed
            axes.axvline(cell.speed, color=colour, linewidth=1)
            axes.annotate(
                f"{cell.number}, no loss", (cell.speed, 0.02), rotation=90, fontsize=8, ha="right",
                xycoords=("data", "axes fraction"), xytext=(-3, 0), textcoords="offset points",
            )  # fmt: skip
            continue
        axes.scatter(
            cell.speed, cell.loss, s=30 + 220 * (cell.memory_gib or 0.0) / most,
            marker="o" if cell.quantized else "s", edgecolors=colour,
            facecolors="none" if cell.meaningless else colour,
            linestyle="--" if cell.meaningless else "-",
        )  # fmt: skip
        axes.annotate(
            str(cell.number), (cell.speed, cell.loss), xytext=(8, 7), textcoords="offset points",
            fontsize=8, fontweight="bold",
        )  # fmt: skip
    if len(leading) > 1 and not apart:
        axes.step([c.speed for c in leading], [c.loss for c in leading], where="post",
                  color=ACCENT, linewidth=1, alpha=0.6)  # fmt: skip
    key = "\n".join(_plain(f"{cell.number:>2}  {cell.label}") for cell in cells)
    axes.text(1.03, 1.0, key, transform=axes.transAxes, fontsize=8, va="top", linespacing=1.5)
    axes.margins(x=0.1, y=0.12)
    axes.set_xlabel(_axis("images/s", cells))
    axes.set_ylabel("RMS difference to the baseline, % of full scale")
    axes.grid(alpha=0.25)


def _speed(axes: Any, cells: Sequence[Cell]) -> None:
    shown = list(reversed(cells))
    bars = axes.barh(
        [_plain(f"{cell.number} {cell.label}") for cell in shown],
        [cell.speed for cell in shown],
        color=["none" if cell.meaningless else ACCENT for cell in shown],
        edgecolor=[WARM if cell.meaningless else ACCENT for cell in shown],
    )
    axes.bar_label(bars, fmt="%.4g", padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel(_axis("images/s", cells))


def _axis(name: str, cells: Sequence[Cell]) -> str:
    doubtful = any(cell.meaningless for cell in cells)
    return f"{name}   (hollow: simulated or no model, means nothing)" if doubtful else name


def _plain(text: str) -> str:
    """No mathematics: a dollar sign stays one."""
    return text.replace("$", r"\$")
