"""How far a long loop is and how long it will still take, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

listener: Callable[[str], None] | None = None
"""Called with every line, on a terminal or not: a sign of life for whoever waits."""

EVERY_S = 5.0
"""Seconds between two lines when standard error is no terminal."""


class Progress:
    """`what 12/32 prompts, 3.1 s each, 1:02 left`; one updated line on a terminal."""

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "prompts") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.first = self.done = done
        self.began = self.shown = time.perf_counter()

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.perf_counter()
        each = (now - self.began) / (self.done - self.first)
        left = each * (self.total - self.done)
        text = (
            f"{self.what} {self.done}/{self.total} {self.unit}, {each:.2f} s each, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
        if listener:
            listener(text)
        last = self.done == self.total
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif now - self.shown >= EVERY_S or last or self.done == self.first + 1:
            print(text, file=sys.stderr, flush=True)
            self.shown = now
