"""A sweep in the terminal: the plan, a line per finished cell, the table at the end."""

from __future__ import annotations

import sys
from typing import Any


class View:
    """Prints to standard error; the cells' own tables stay in their records."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = [label or "-" for label in labels]

    def plan(self, ahead: list[tuple[str, float | None]], cached: int, twins: int) -> None:
        """What each cell will need, and the sum."""
        from rich.console import Console
        from rich.table import Table

        known = [seconds for _, seconds in ahead if seconds is not None]
        unknown = len(ahead) - len(known)
        total = f"about {sum(known):,.0f} s" + (f" + {unknown} unknown" if unknown else "")
        extra = f", {twins} unquantized twin{'s' if twins != 1 else ''}" if twins else ""
        title = f"plan: {len(ahead)} cells, {cached} already done{extra}; {total}"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("#", justify="right")
        table.add_column("cell", overflow="fold")
        table.add_column("what", overflow="fold")
        table.add_column("seconds", justify="right")
        for number, (label, (what, seconds)) in enumerate(zip(self.labels, ahead, strict=True)):
            table.add_row(str(number), label, what, "?" if seconds is None else f"{seconds:,.0f}")
        width = None if sys.stderr.isatty() else 160
        Console(stderr=True, width=width, highlight=False).print(table)

    def running(self, number: int) -> None:
        """A cell begins."""
        self._say(f"[{number + 1}/{len(self.labels)}] {self.labels[number]}: running")

    def ended(self, number: int, outcome: dict[str, Any], took: float, eta: float) -> None:
        """A cell is over."""
        facts = [outcome.get("status", "failed")]
        for name, unit in (("images_per_second", "images/s"), ("psnr_db", "dB to the twin")):
            if outcome.get(name) is not None:
                facts.append(f"{outcome[name]:.3f} {unit}")
        if outcome.get("cached"):
            facts.append(outcome["cached"])
        elif outcome.get("reason"):
            facts.append(outcome["reason"])
        left = f"; about {eta:,.0f} s left" if number + 1 < len(self.labels) else ""
        place = f"[{number + 1}/{len(self.labels)}] {self.labels[number]}"
        self._say(f"{place}: {', '.join(facts)} ({took:.1f} s{left})")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
