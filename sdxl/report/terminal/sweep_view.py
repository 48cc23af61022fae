"""A sweep in the terminal: the plan, then a table that stays in place, or a line per cell."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from sdxl.core import terminal
from sdxl.core.command import Outcome
from sdxl.core.progress import Say
from sdxl.report.terminal.table import doubted, three

RIGHT = ("#", "images/s", "PSNR dB", "seconds")
FRAME = 9
"""Lines of the terminal that the table leaves to its frame and to messages."""
NOTED = 120
"""Columns of the terminal from which notes have a column; else the running cells' stand beneath."""


@dataclass
class Row:
    """What the table says of one cell."""

    status: str = "waiting"
    speed: str = ""
    quality: str = ""
    note: str = ""
    took: float | None = None
    since: float = 0.0


class View:
    """Prints to standard error; the cells' own tables stay in their records.

    `labels` may grow while the sweep runs.
    """

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self._rows: dict[int, Row] = {}
        self._live: Any = None
        self._left, self._left_at = 0.0, time.monotonic()

    def plan(
        self, ahead: list[tuple[str, float | None]], cached: int, baselines: int, more: str
    ) -> None:
        """What each cell will need, and the sum; `more` describes a search."""
        known = [seconds for _, seconds in ahead if seconds is not None]
        unknown = len(ahead) - len(known)
        total = f"about {sum(known):,.0f} s" + (f" + {unknown} unknown" if unknown else "")
        extra = (
            f", {baselines} unquantized baseline{'s' if baselines != 1 else ''}"
            if baselines
            else ""
        )
        title = f"plan: {len(ahead)} cells, {cached} already done{extra}; {more or total}"
        rows = [
            (str(number), self._label(number), what, "?" if spent is None else f"{spent:,.0f}")
            for number, (what, spent) in enumerate(ahead)
        ]
        console = terminal.console(stderr=True)
        console.print(title, style="bold")
        if ahead:
            console.print(terminal.table(("#", "cell", "what", "seconds"), rows, "", RIGHT))

    def start(self) -> None:
        """On a terminal: put the table there."""
        if not sys.stderr.isatty():
            return
        from rich.live import Live

        self._live = Live(
            get_renderable=self.table, console=terminal.console(stderr=True), refresh_per_second=2,
            transient=True, redirect_stdout=sys.stdout.isatty(),
        )  # fmt: skip
        self._live.start()

    def stop(self) -> None:
        """Take the table away; the final one goes to standard output."""
        if self._live:
            self._live.stop()
            self._live = None

    def running(self, number: int) -> None:
        """A cell begins."""
        self._rows[number] = Row("running", since=time.monotonic())
        self._say(f"[{number + 1}/{len(self.labels)}] {self._label(number)}: running")

    def listener(self, number: int) -> Say | None:
        """Takes what a running cell does into its row; None without a table."""
        if not self._live:
            return None

        def note(text: str) -> None:
            self._rows[number].note = text

        return note

    def ended(self, number: int, outcome: Outcome, took: float, eta: float) -> None:
        """A cell is over."""
        note = outcome.cached or outcome.reason or ""
        row = Row(outcome.status, note=note, took=took)
        row.speed = doubted(outcome.figures, "images_per_second")
        row.quality = three(outcome.figures.get("psnr_db"))
        self._rows[number] = row
        self._left, self._left_at = eta, time.monotonic()
        facts = [row.status]
        facts += [f"{row.speed} images/s"] if row.speed else []
        facts += ["simulated"] if row.speed.startswith("(") else []
        other = outcome.figures.get("compared_with")
        facts += [f"PSNR {row.quality} dB to the {other}"] if row.quality else []
        facts += [note] if note else []
        left = f"; about {eta:,.0f} s left" if number + 1 < len(self.labels) else ""
        place = f"[{number + 1}/{len(self.labels)}] {self._label(number)}"
        self._say(f"{place}: {', '.join(facts)} ({took:.1f} s{left})")

    def table(self) -> Any:
        """The cells around those that run now, as many as the terminal has lines for."""
        ended = [row for row in self._rows.values() if row.took is not None]
        bad = sum(row.status in ("failed", "timeout") for row in ended)
        left = max(0.0, self._left - (time.monotonic() - self._left_at))
        title = f"{len(ended)} of {len(self.labels)} cells" + (f", {bad} failed" if bad else "")
        title += f"; about {left:,.0f} s left" if ended and self._left else ""
        rows = []
        for number in self._window():
            row = self._rows.get(number, Row())
            took = row.took
            if row.status == "running":
                took = time.monotonic() - row.since
            spent = "" if took is None else f"{took:,.0f}"
            rows.append((str(number), self._label(number), row.status, row.speed, row.quality,
                         spent, row.note[:60]))  # fmt: skip
        head = ("#", "cell", "status", "images/s", "PSNR dB", "seconds", "")
        wide = self._width() >= NOTED
        shown = terminal.table(
            head if wide else head[:-1], rows if wide else [row[:-1] for row in rows], title,
            RIGHT, fold=False,
        )  # fmt: skip
        shown.columns[2].min_width = len("running")
        if not wide:
            shown.caption = "\n".join(
                f"{number}: {row.note}" for number, row in self._rows.items()
                if row.status == "running" and row.note
            ) or None  # fmt: skip
            shown.caption_justify = "left"
        return shown

    def _width(self) -> int:
        return self._live.console.width if self._live else terminal.WIDTH

    def _window(self) -> range:
        room = max(3, self._live.console.height - FRAME) if self._live else len(self.labels)
        going = (n for n in range(len(self.labels)) if self._rows.get(n, Row()).took is None)
        first = next(going, len(self.labels))
        start = max(0, min(first - room // 2, len(self.labels) - room))
        return range(start, min(len(self.labels), start + room))

    def _label(self, number: int) -> str:
        return self.labels[number] or "-"

    def _say(self, text: str) -> None:
        if not self._live:
            terminal.say(text)
