"""The system under test as LoadGen sees it: batches of samples in, pictures out, none lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdxl import schema

DEFAULT_BATCH = 8
"""Images per batch where neither the backend nor the scenario says otherwise."""

Generate = Callable[[Sequence[int]], np.ndarray]
"""qsl indices -> uint8 images (B, H, W, 3)."""


@dataclass(frozen=True)
class Sample:
    """One outstanding sample: LoadGen's response id and the qsl index."""

    id: int
    index: int


@dataclass
class Counts:
    """Progress, read by another thread."""

    issued: int = 0
    done: int = 0
    batches: int = 0
    busy_s: float = 0.0


Complete = Callable[[list[Sample], np.ndarray], None]


class Sut:
    """Feeds a generator from LoadGen's queries.

    `inline` answers in LoadGen's own thread (SingleStream, MultiStream: no queue in the path).
    Otherwise `serve` takes up to `batch_size` samples at a time, waiting at most `max_wait_s`
    for a batch to fill (Server). The first exception stops everything and goes to `on_error`.
    """

    def __init__(
        self,
        generate: Generate,
        complete: Complete,
        on_error: Callable[[BaseException], None],
        *,
        batch_size: int,
        inline: bool,
        max_wait_s: float = 0.0,
    ) -> None:
        self.counts = Counts()
        self.latencies_s: list[float] = []  # of finished samples, from issue to completion
        self._issued: dict[int, float] = {}
        self._generate, self._complete, self._on_error = generate, complete, on_error
        self._batch_size, self._inline, self._max_wait_s = batch_size, inline, max_wait_s
        self._waiting: deque[tuple[Sample, float]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def issue(self, samples: Sequence[Sample]) -> None:
        """Take samples over from LoadGen."""
        self.counts.issued += len(samples)
        now = time.perf_counter()
        self._issued.update((sample.id, now) for sample in samples)
        if self._inline:
            for start in range(0, len(samples), self._batch_size):
                if not self._guarded(list(samples[start : start + self._batch_size])):
                    return
            return
        with self._changed:
            self._waiting.extend((sample, now) for sample in samples)
            self._changed.notify()

    def serve(self) -> None:
        """Work off batches in the calling thread until `close`; nothing to do for an inline SUT."""
        while not self._inline and (batch := self._take()):
            if not self._guarded(batch):
                return

    def close(self) -> None:
        """No more samples will come: `serve` returns once nothing is waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _take(self) -> list[Sample]:
        """The next batch: full, or as full as it got by the deadline of its oldest sample."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            deadline = self._waiting[0][1] + self._max_wait_s
            while len(self._waiting) < self._batch_size and not self._closed:
                left = deadline - time.perf_counter()
                if left <= 0 or not self._changed.wait(left):
                    break
            size = min(self._batch_size, len(self._waiting))
            return [self._waiting.popleft()[0] for _ in range(size)]

    def _guarded(self, batch: list[Sample]) -> bool:
        """Generate and complete; an exception must not cross into LoadGen, which would abort."""
        began = time.perf_counter()
        try:
            images = self._generate([sample.index for sample in batch])
            if len(images) != len(batch):
                raise RuntimeError(f"{len(batch)} prompts gave {len(images)} pictures")
            self._complete(batch, images)
        except BaseException as error:
            self._on_error(error)
            return False
        now = time.perf_counter()
        self.latencies_s += [now - self._issued.pop(sample.id) for sample in batch]
        self.counts.busy_s += now - began
        self.counts.batches += 1
        self.counts.done += len(batch)
        return True


def batch_size(config: schema.Config, default: int = DEFAULT_BATCH) -> int:
    """Images per batch: as configured, else what the scenario wants."""
    if config.backend.batch_size:
        return config.backend.batch_size
    if isinstance(config.scenario, schema.SingleStream):
        return 1
    if isinstance(config.scenario, schema.MultiStream):
        return config.scenario.samples_per_query
    return default
