"""What a command is doing, live: a bar on a terminal, plain lines elsewhere, or told to `say`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sdxl.core import terminal

PLAIN_EVERY_S = 10.0
"""Seconds between two lines of one phase when standard error is no terminal."""

Say = Callable[[str], None]
"""Takes one line of text."""
Report = Callable[[dict[str, Any]], None]
"""Takes a report: `phase`, and `text`, or `done` and `expected`, or LoadGen's counts."""


def silent(_: Any) -> None:
    """A `Say` or a `Report` that shows nothing."""


class Progress:
    """Shows reports on standard error, or tells `say` in its place; use as a context manager."""

    def __init__(self, title: str, say: Say | None = None) -> None:
        self.title = title
        self._tell = say
        self.terminal = sys.stderr.isatty() and not say
        self._phase = ""
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.terminal:
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                TimeElapsedColumn(),
                console=terminal.console(stderr=True),
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
        begins = phase != self._phase
        if begins:
            self._phase, self._began = phase, time.monotonic()
        facts = _facts(message, self._began)
        if self._tell:
            self._tell(f"{phase} {facts}")
        elif self._bar:
            self._bar.update(
                self._task,
                description=f"{self.title}: {phase}",
                total=message.get("expected"),
                completed=message.get("done", 0),
                facts=facts,
            )
        else:
            self._line(begins, facts, _complete(message))

    def say(self, text: str) -> None:
        """Show a phase that no worker reports."""
        self.report({"phase": text})

    def _line(self, begins: bool, facts: str, ends: bool) -> None:
        """The phase when it begins; its facts from time to time, and when they are complete."""
        if begins:
            terminal.say(f"{self.title}: {self._phase}")
            self._said = time.monotonic()
        if facts and (ends or time.monotonic() - self._said >= PLAIN_EVERY_S):
            terminal.say(f"{self.title}: {self._phase}: {facts}")
            self._said = time.monotonic()


class Spent:
    """What each step of a piece of work took, by the clock and of this process's CPU time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._step, self._clock, self._cpu = "", 0.0, 0.0

    def begin(self, step: str) -> None:
        """End the step before this one; "" ends the last."""
        clock, cpu = time.perf_counter(), time.process_time()
        if self._step:
            self.seconds[self._step] = round(clock - self._clock, 3)
            self.cpu_seconds[self._step] = round(cpu - self._cpu, 3)
        self._step, self._clock, self._cpu = step, clock, cpu


class Count:
    """Reports `12/32 prompts, 3.1 s each, 1:02 left` as the prompts of a phase get done."""

    def __init__(self, phase: str, total: int, report: Report, done: int = 0) -> None:
        self._phase, self._total, self._report = phase, total, report
        self._first = self._done = done
        self._began = time.perf_counter()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        each = (time.perf_counter() - self._began) / (self._done - self._first)
        minutes, seconds = divmod(int(each * (self._total - self._done)), 60)
        text = (
            f"{self._done}/{self._total} prompts, {each:.2f} s each, {minutes}:{seconds:02d} left"
        )
        self._report(
            {"phase": self._phase, "text": text, "done": self._done, "expected": self._total}
        )


def _complete(message: dict[str, Any]) -> bool:
    """Whether a report of a count is its last."""
    return "text" in message and message.get("done", -1) == message.get("expected")


def _facts(message: dict[str, Any], began: float) -> str:
    """What a report says beside its phase, which began at `began` (s, monotonic)."""
    if "issued" not in message:
        return str(message.get("text", ""))
    done, issued, expected = message["done"], message["issued"], message["expected"]
    rate = done / max(1e-9, time.monotonic() - began)
    left = f"{max(0, expected - done) / rate:.0f} s left" if done else "no estimate yet"
    return f"{done}/{expected} images, {rate:.2f} images/s, {issued - done} waiting, {left}"
