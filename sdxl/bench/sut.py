"""The system under test as LoadGen sees it: batches of samples in, pictures out, none lost."""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from sdxl.core.types import Sample

Generate = Callable[[Sequence[int]], np.ndarray]
"""qsl indices -> uint8 images (B, H, W, 3)."""

Begin = Callable[[Sequence[int], Callable[[Callable[[], np.ndarray]], bool]], "Future[bool]"]
"""A `Generate` in two parts: returns when the next batch may begin, and calls the second argument,
in a thread of its own, with a function that ends the first batch and returns its pictures."""


@dataclass
class Counts:
    """Progress, read by another thread."""

    issued: int = 0
    done: int = 0
    batches: int = 0
    padded: int = 0  # pictures drawn to fill a prepared batch size, and dropped
    busy_s: float = 0.0


Complete = Callable[[list[Sample], np.ndarray], None]

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


class Sut:
    """Feeds generators from LoadGen's queries.

    Unless it answers inline, each `serve`, of which several may run at once, takes a batch at a
    time; one that would end too late is cut if smaller ones are as cheap per image. One query is
    worked off in the order of its indices, so that its batches do not depend on LoadGen's
    shuffling. With `begin` one batch begins while the one before ends. The first exception stops
    everything and goes to `on_error`.
    """

    def __init__(
        self,
        generate: Generate,
        complete: Complete,
        on_error: Callable[[BaseException], None],
        batching: Batching,
        begin: Begin | None = None,
    ) -> None:
        self.counts = Counts()
        self.pace = Pace()
        self._limit_s = SAFETY * batching.limit_s if batching.limit_s else None
        self._counting = threading.Lock()
        self.latencies_s = array("d")  # of finished samples, from issue to completion
        self._issued: dict[int, float] = {}
        self._generate, self._complete, self._on_error = generate, complete, on_error
        self._batch_size, self.inline = batching.batch_size, batching.inline
        self._max_wait_s, self._sizes, self._begin = batching.max_wait_s, batching.sizes, begin
        self._waiting: deque[tuple[Sample, float]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._ended = 0.0  # when the last batch did, with `begin`

    def issue(self, samples: Sequence[Sample]) -> None:
        """Take samples over from LoadGen."""
        self.counts.issued += len(samples)
        now = time.perf_counter()
        self._issued.update((sample.id, now) for sample in samples)
        if self.inline:
            for start in range(0, len(samples), self._batch_size):
                if not self._guarded(list(samples[start : start + self._batch_size])):
                    return
            return
        ordered = sorted(samples, key=_index) if len(samples) > 1 else samples
        with self._changed:
            self._waiting.extend((sample, now) for sample in ordered)
            self._changed.notify_all()

    def serve(self, generate: Generate | None = None) -> None:
        """Work off batches in the calling thread until `close`; nothing to do for an inline SUT.

        `generate` is this thread's own generator, if it has one.
        """
        if self._begin and not self.inline:
            self._overlapped(self._begin)
            return
        while not self.inline and (batch := self._take()):
            if not self._guarded(batch, generate):
                return

    def close(self) -> None:
        """No more samples will come: `serve` returns once nothing is waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self) -> list[Sample]:
        """The next batch: full, or as full as it got by the deadline of its oldest sample."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                left = self._go_at(self._waiting[0][1]) - time.perf_counter()
                if len(self._waiting) >= self._batch_size or self._closed or left <= 0:
                    return [self._waiting.popleft()[0] for _ in range(self._size())]
                self._changed.wait(left)

    def _go_at(self, oldest: float) -> float:
        """When a batch goes even if it is not full, by the arrival of its oldest sample."""
        patience = self._max_wait_s
        if self._limit_s is not None:
            patience = min(patience, self._limit_s - self._expected_s(self._batch_size))
        return oldest + patience

    def _size(self) -> int:
        """How many of the waiting samples go now."""
        full = min(self._batch_size, len(self._waiting))
        if self._limit_s is None or full <= 1:
            return full
        left = self._waiting[0][1] + self._limit_s - time.perf_counter()
        if self._expected_s(full) <= left:
            return full
        most = EQUAL_COST * self._expected_s(full) / full
        fitting = (
            size
            for size in range(full - 1, 0, -1)
            if (cost := self._expected_s(size)) <= left and cost / size <= most
        )
        return next(fitting, full)

    def _drawn(self, size: int) -> int:
        """Pictures that a batch of `size` draws, padding included."""
        return padded(size, self._sizes)

    def _expected_s(self, size: int) -> float:
        return self.pace.of(self._drawn(size))

    def _guarded(self, batch: list[Sample], generate: Generate | None = None) -> bool:
        draw = generate or self._generate
        return self._finish(batch, time.perf_counter(), lambda: draw(self._indices(batch)))

    def _overlapped(self, begin: Begin) -> None:
        """`serve` where a batch begins before the one before has ended."""
        last: Future[bool] | None = None
        while batch := self._take():
            finish = partial(self._finish, batch, time.perf_counter())
            try:
                following = begin(self._indices(batch), finish)
            except BaseException as error:
                self._on_error(error)
                break
            if last and not last.result():  # has ended: no more than one is under way
                return
            last = following
        if last:
            last.result()

    def _indices(self, batch: list[Sample]) -> list[int]:
        """What the batch draws: its samples, the last one repeated."""
        indices = [sample.index for sample in batch]
        return indices + indices[-1:] * (self._drawn(len(batch)) - len(batch))

    def _finish(self, batch: list[Sample], began: float, draw: Callable[[], np.ndarray]) -> bool:
        """Draw and complete; an exception must not cross into LoadGen, which would abort."""
        drawn = self._drawn(len(batch))
        try:
            images = draw()
            self.pace.note(drawn, time.perf_counter() - began)
            if len(images) != drawn:
                raise RuntimeError(f"{drawn} prompts gave {len(images)} pictures")
            self._complete(batch, images[: len(batch)])
        except BaseException as error:
            self._on_error(error)
            return False
        now = time.perf_counter()
        with self._counting:
            self.latencies_s.extend(now - self._issued.pop(sample.id) for sample in batch)
            self.counts.busy_s += now - max(began, self._ended)  # an overlap counts once
            self._ended = now if self._begin else 0.0
            self.counts.batches += 1
            self.counts.padded += drawn - len(batch)
            self.counts.done += len(batch)
        return True


def _index(sample: Sample) -> int:
    return sample.index


def padded(size: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that holds a batch of `size`; `size` itself where none does."""
    return min((each for each in sizes if each >= size), default=size)
