"""Which samples go together, and when: dynamic batching, of LoadGen's Server and of `serve`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

SAFETY = 0.95
"""Share of the latency limit within which Server's batches are planned to end."""
EQUAL_COST = 1.05
"""A smaller batch may cost this much more per image and still be preferred to a late one."""
REMEMBERED = 5
"""Batches of each size that are remembered. Their median counts: a batch that had to wait for a
new worker says nothing of the next."""


class Pace:
    """How long a batch takes, by its size, learnt from those that ran."""

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}
        self._seconds: dict[int, float] = {}

    def note(self, size: int, seconds: float) -> None:
        """A batch of `size` took `seconds`."""
        last = self._last.setdefault(size, deque(maxlen=REMEMBERED))
        last.append(seconds)
        self._seconds = {**self._seconds, size: median(last)}

    def of(self, size: int) -> float:
        """Expected seconds, straight between the sizes seen; 0 as long as none was."""
        known = self._seconds
        sizes = sorted(known)
        return float(np.interp(size, sizes, [known[each] for each in sizes])) if known else 0.0


@dataclass(frozen=True)
class Batching:
    """How samples become batches.

    `inline` answers in LoadGen's own thread (SingleStream, MultiStream: no queue in the path).
    Server's batches wait at most `max_wait_s` to fill, and less where the oldest sample would miss
    `limit_s`. Batches are padded to the next of `sizes`, if there are any (`sdxl.bench.sizes`).
    """

    batch_size: int
    inline: bool = False
    max_wait_s: float = 0.0
    limit_s: float | None = None
    sizes: Sequence[int] = ()


class Batches(Generic[T]):
    """A queue of samples that several threads take batches from.

    A batch that would end too late is cut if smaller ones are as cheap per image.
    """

    def __init__(self, batching: Batching) -> None:
        self.pace = Pace()
        self.batch_size = batching.batch_size
        self.waiting: deque[tuple[T, float]] = deque()
        self._limit_s = SAFETY * batching.limit_s if batching.limit_s else None
        self._max_wait_s, self._sizes = batching.max_wait_s, batching.sizes
        self._changed = threading.Condition()
        self._closed = False

    def put(self, samples: Sequence[T]) -> None:
        """Samples that arrive now, in the order in which they are to go."""
        now = time.perf_counter()
        with self._changed:
            self.waiting.extend((sample, now) for sample in samples)
            self._changed.notify_all()

    def forget(self, unwanted: T) -> None:
        """A sample that is not to go any more, if it still waits."""
        with self._changed:
            self.waiting = deque(each for each in self.waiting if each[0] is not unwanted)

    def close(self) -> None:
        """No more samples will come: `take` returns None once nothing is waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, wait_s: float | None = None) -> list[T] | None:
        """The next batch: full, or as full as it got by the deadline of its oldest sample.

        Empty if no sample came in `wait_s` (null: for ever); None after `close`.
        """
        with self._changed:
            while True:
                if not self.waiting:
                    if self._closed:
                        return None
                    if not self._changed.wait(wait_s):
                        return []
                    continue
                left = self._go_at(self.waiting[0][1]) - time.perf_counter()
                if len(self.waiting) >= self.batch_size or self._closed or left <= 0:
                    return [self.waiting.popleft()[0] for _ in range(self._size())]
                self._changed.wait(left)

    def drawn(self, size: int) -> int:
        """Pictures that a batch of `size` draws, padding included."""
        return padded(size, self._sizes)

    def _go_at(self, oldest: float) -> float:
        """When a batch goes even if it is not full, by the arrival of its oldest sample."""
        patience = self._max_wait_s
        if self._limit_s is not None:
            patience = min(patience, self._limit_s - self._expected_s(self.batch_size))
        return oldest + patience

    def _size(self) -> int:
        """How many of the waiting samples go now."""
        full = min(self.batch_size, len(self.waiting))
        if self._limit_s is None or full <= 1:
            return full
        left = self.waiting[0][1] + self._limit_s - time.perf_counter()
        if self._expected_s(full) <= left:
            return full
        most = EQUAL_COST * self._expected_s(full) / full
        fitting = (
            size
            for size in range(full - 1, 0, -1)
            if (cost := self._expected_s(size)) <= left and cost / size <= most
        )
        return next(fitting, full)

    def _expected_s(self, size: int) -> float:
        return self.pace.of(self.drawn(size))


def padded(size: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that holds a batch of `size`; `size` itself where none does."""
    return min((each for each in sizes if each >= size), default=size)
