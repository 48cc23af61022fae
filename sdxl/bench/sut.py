"""The system under test as LoadGen sees it: batches of samples in, pictures out, none lost."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from sdxl.bench.batching import Batches, Batching
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


class Sut:
    """Feeds generators from LoadGen's queries.

    Unless it answers inline, each `serve`, of which several may run at once, takes a batch at a
    time (`batching.Batches`). One query is worked off in the order of its indices, so that its
    batches do not depend on LoadGen's shuffling. With `begin` one batch begins while the one before
    ends. The first exception stops everything and goes to `on_error`.
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
        self.batches: Batches[Sample] = Batches(batching)
        self._counting = threading.Lock()
        self.latencies_s = array("d")  # of finished samples, from issue to completion
        self._issued: dict[int, float] = {}
        self._generate, self._complete, self._on_error = generate, complete, on_error
        self.inline, self._begin = batching.inline, begin
        self._ended = 0.0  # when the last batch did, with `begin`

    def issue(self, samples: Sequence[Sample]) -> None:
        """Take samples over from LoadGen."""
        self.counts.issued += len(samples)
        now = time.perf_counter()
        self._issued.update((sample.id, now) for sample in samples)
        if self.inline:
            size = self.batches.batch_size
            for start in range(0, len(samples), size):
                if not self._guarded(list(samples[start : start + size])):
                    return
            return
        self.batches.put(sorted(samples, key=_index) if len(samples) > 1 else samples)

    def serve(self, generate: Generate | None = None) -> None:
        """Work off batches in the calling thread until `close`; nothing to do for an inline SUT.

        `generate` is this thread's own generator, if it has one.
        """
        if self._begin and not self.inline:
            self._overlapped(self._begin)
            return
        while not self.inline and (batch := self.batches.take()):
            if not self._guarded(batch, generate):
                return

    def close(self) -> None:
        """No more samples will come: `serve` returns once nothing is waiting."""
        self.batches.close()

    def _guarded(self, batch: list[Sample], generate: Generate | None = None) -> bool:
        draw = generate or self._generate
        return self._finish(batch, time.perf_counter(), lambda: draw(self._indices(batch)))

    def _overlapped(self, begin: Begin) -> None:
        """`serve` where a batch begins before the one before has ended."""
        last: Future[bool] | None = None
        while batch := self.batches.take():
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
        return indices + indices[-1:] * (self.batches.drawn(len(batch)) - len(batch))

    def _finish(self, batch: list[Sample], began: float, draw: Callable[[], np.ndarray]) -> bool:
        """Draw and complete; an exception must not cross into LoadGen, which would abort."""
        drawn = self.batches.drawn(len(batch))
        try:
            images = draw()
            self.batches.pace.note(drawn, time.perf_counter() - began)
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
