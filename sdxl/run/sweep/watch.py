"""Cells in other processes, seen through the sweep's folder: begun, and ended by their record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sdxl.core import records
from sdxl.core.command import Outcome
from sdxl.run import outcomes
from sdxl.run.sweep.cells import Planned

LOOK_EVERY_S = 0.5


class Watch:
    """A thread that looks at the cells' folders until told to stop."""

    def __init__(
        self,
        folder: Path,
        cells: Sequence[Planned],
        since: str,
        begun: Callable[[int], None],
        ended: Callable[[Planned, float], None],
    ) -> None:
        self._folder, self._cells, self._since = folder, cells, since
        self._begun, self._ended = begun, ended
        self._starts: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Begin looking."""
        self._thread.start()

    def stop(self) -> None:
        """Look once more, so that nothing finished is missed."""
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        for cell in self._cells:
            if cell.outcome:
                continue
            place = self._folder / str(cell.number)
            if cell.number not in self._starts and place.is_dir():
                self._starts[cell.number] = time.monotonic()
                cell.status = "running"
                self._begun(cell.number)
            if found := outcome_in(place, cell.key, self._since):
                cell.outcome = found
                began = self._starts.get(cell.number, time.monotonic())
                self._ended(cell, time.monotonic() - began)


def outcome_in(folder: Path, key: str, since: str) -> Outcome | None:
    """What the record in a cell's folder says; None without a record of this cell and sweep.

    An older record counts if it has figures: another sweep measured the cell.
    """
    path = folder / "record.json"
    try:
        record = records.read(path)
    except (OSError, ValueError, TypeError):
        return None
    older = record.started < since
    if record.key != key or (older and record.status not in ("ok", "invalid")):
        return None
    return (outcomes.taken_over if older else outcomes.outcome_of)(record, path)
