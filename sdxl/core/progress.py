"""What a run is doing, live: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

PLAIN_EVERY_S = 10.0

listener: Callable[[str], None] | None = None
"""Told what happens in place of the terminal: the table of a sweep shows it."""


class Progress:
    """Shows a worker's reports on standard error; use as a context manager."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.terminal = sys.stderr.isatty() and not listener
        self._phase = ""
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, facts="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def report(self, message: dict[str, Any]) -> None:
        """Show one report: its phase and, while measuring, issued, done, rate, queue, ETA."""
        phase = message.get("phase", "")
        if phase != self._phase:
            self._phase, self._began = phase, time.monotonic()
            if not self.terminal and not listener:
                print(f"{self.title}: {phase}", file=sys.stderr, flush=True)
                self._said = time.monotonic()
        facts = self._facts(message)
        if listener:
            listener(f"{phase} {facts}")
        elif self.terminal:
            self._bar.update(
                self._task,
                description=f"{self.title}: {phase}",
                total=message.get("expected"),
                completed=message.get("done", 0),
                facts=facts,
            )
        elif facts and time.monotonic() - self._said >= PLAIN_EVERY_S:
            print(f"{self.title}: {phase}: {facts}", file=sys.stderr, flush=True)
            self._said = time.monotonic()

    def say(self, text: str) -> None:
        """Show a phase that no worker reports."""
        self.report({"phase": text})

    def _facts(self, message: dict[str, Any]) -> str:
        if "issued" not in message:
            return str(message.get("text", ""))
        done, issued, expected = message["done"], message["issued"], message["expected"]
        rate = done / max(1e-9, time.monotonic() - self._began)
        left = f"{max(0, expected - done) / rate:.0f} s left" if done else "no estimate yet"
        return f"{done}/{expected} images, {rate:.2f} images/s, {issued - done} waiting, {left}"


EVERY_S = 5.0
"""Seconds between two lines when standard error is no terminal."""


class Count:
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
