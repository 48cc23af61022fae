"""How much of the machine others use while something is timed here."""

from __future__ import annotations

import os
import time
from collections import deque

LEAST_S = 0.3
"""Shortest look back: processor times are counted in hundredths of a second."""
LEAST_CORES, LEAST_SHARE = 0.25, 0.05
"""Cores busy elsewhere, and their share of the machine, from which a figure is in doubt."""


class Watch:
    """Remembers processor times, of the machine and of this process, at moments of its own."""

    def __init__(self) -> None:
        self._marks = deque([_now()], maxlen=1000)

    def elsewhere(self) -> float:
        """Cores that other processes kept busy since the last look at least `LEAST_S` ago."""
        now = _now()
        while now[0] - self._marks[0][0] < LEAST_S:
            time.sleep(LEAST_S / 10)
            now = _now()
        old = [mark for mark in self._marks if now[0] - mark[0] >= LEAST_S]
        self._marks.append(now)
        passed, busy, ours = (a - b for a, b in zip(now, old[-1], strict=True))
        return max(0.0, busy - ours) / passed


def is_busy(elsewhere: float, cores: int | None = None) -> bool:
    """Whether so many cores busy elsewhere, of so many, put a timing in doubt."""
    return elsewhere >= max(LEAST_CORES, LEAST_SHARE * (cores or os.cpu_count() or 1))


def machine_seconds() -> float:
    """Processor time of everybody since the machine began."""
    import psutil

    whole = psutil.cpu_times()
    busy: float = sum(whole) - whole.idle - getattr(whole, "iowait", 0.0)
    # Guests' time is in user's already.
    return busy - getattr(whole, "guest", 0.0) - getattr(whole, "guest_nice", 0.0)


def _now() -> tuple[float, float, float]:
    return time.monotonic(), machine_seconds(), time.process_time()
