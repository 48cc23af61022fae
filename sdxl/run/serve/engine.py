"""Orders in, pictures out: the queue, its batches, the workers that draw them. Knows no HTTP."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.bench import generators
from sdxl.bench.batching import Batches, Batching
from sdxl.bench.pool import Lane, Patience, Pool
from sdxl.bench.sizes import warm_up_sizes
from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.core import terminal
from sdxl.core.errors import StageError
from sdxl.core.types import Order, Prompt
from sdxl.model import images

LOOK_EVERY_S = 0.5
"""How long a worker that died in its sleep may stay unnoticed."""
PATIENCE = 1
"""Workers that are replaced for one batch: where the second dies, too, the batch kills them."""
_BATCHES_OF_SILENCE = 20


@dataclass(frozen=True)
class Drawn:
    """A picture (H, W, 3), and whether its words were longer than what is read of them."""

    picture: np.ndarray
    cut: bool


class Job:
    """An order that was accepted; cancelled before its batch goes, it is not drawn."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.done: Future[Drawn] = Future()


class Full(Exception):
    """The queue has no room; there may be some in `retry_s`."""

    def __init__(self, retry_s: int) -> None:
        super().__init__(f"full, some {retry_s} s")
        self.retry_s = retry_s


class Engine:
    """The workers of a setting behind one bounded queue.

    queue: pictures that may wait; on_batch: told the size and the seconds of each batch.
    """

    def __init__(
        self, config: schema.Config, loads: dict[str, Path], queue: int,
        on_batch: Callable[[int, float], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        assert isinstance(config.scenario, schema.Server)
        self.config, self.queue, self._loads, self._on_batch = config, queue, loads, on_batch
        self._pool: Pool | None = None
        self._threads: list[threading.Thread] = []
        self._broken: set[int] = set()  # lanes whose last batch cost them too many workers
        self._ending = False
        self._set_batches(())

    @property
    def facts(self) -> dict[str, Any]:
        """What the workers say of themselves; empty before they are there."""
        return self._pool.describe() if self._pool else {}

    @property
    def ready(self) -> bool:
        """Warm, and at least one worker lives."""
        return len(self._broken) < len(self._threads)

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return len(self.batches.waiting)

    @property
    def deaths(self) -> int:
        """Workers that died."""
        return self._pool.restarts if self._pool else 0

    @property
    def pids(self) -> list[int]:
        """The workers' processes."""
        return [lane.pid for lane in self._pool.lanes] if self._pool else []

    def open(self) -> None:
        """Load every worker, draw the sizes of batches they will meet, and begin."""
        scenario = self.config.scenario
        pool = generators.open_pool(
            self.config,
            self._loads,
            [Prompt(0, "", 0)],
            Patience(scenario.startup_s, 1_000_000_000, PATIENCE),
        )
        self._pool = pool
        if self._ending:  # told so while it loaded
            pool.close()
            return
        by_shape = bool(pool.describe().get("by_shape"))
        sizes = warm_up_sizes(self.config, batch_size(self.config), by_shape)
        self._set_batches(sizes if by_shape else ())
        # The largest first and last: see `generators`.
        pool.warm = [[Order("", place) for place in range(size)] for size in (sizes[-1], *sizes)]
        with ThreadPoolExecutor(len(pool.lanes)) as threads:
            slowest_s = max(threads.map(self._warm, pool.lanes))
        pool.silence_s = max(scenario.stall_s, _BATCHES_OF_SILENCE * slowest_s)
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"lane-{lane.number}")
            for lane in pool.lanes
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, orders: Sequence[Order]) -> list[Job]:
        """Take orders into the queue, all or none, from one thread; raises `Full`."""
        if self.waiting + len(orders) > self.queue:
            size = self.batches.batch_size
            full_s = self.batches.pace.of(size) / max(1, len(self._threads))
            raise Full(max(1, math.ceil(full_s * self.waiting / size)))
        jobs = [Job(order) for order in orders]
        self.batches.put(jobs)
        for job in jobs:
            job.done.add_done_callback(functools.partial(self._left, job))
        return jobs

    def close(self) -> None:
        """Draw what waits, then end the workers."""
        self._ending = True
        self.batches.close()
        for thread in self._threads:
            thread.join()
        if self._pool:
            self._pool.close()

    def abandon(self) -> None:
        """End the workers at once; what waits is not drawn."""
        self._ending = True
        self.batches.close()
        if self._pool:
            self._pool.abandon()

    def _left(self, job: Job, done: Future[Drawn]) -> None:
        """Give the place of an order that was taken back to the next one."""
        if done.cancelled():
            self.batches.forget(job)

    def _set_batches(self, sizes: Sequence[int]) -> None:
        scenario = self.config.scenario
        assert isinstance(scenario, schema.Server)
        wait_s = scenario.max_wait_ms / 1e3
        size = batch_size(self.config)
        self.batches: Batches[Job] = Batches(Batching(size, max_wait_s=wait_s, sizes=sizes))

    def _warm(self, lane: Lane) -> float:
        """Draw every size once; the seconds of the slowest, which was the first."""
        assert self._pool
        slowest_s = 0.0
        for batch in self._pool.warm:
            began = time.perf_counter()
            lane.generate(batch)
            seconds = time.perf_counter() - began
            slowest_s = max(slowest_s, seconds)
        self.batches.pace.note(len(batch), seconds)
        return slowest_s

    def _serve(self, lane: Lane) -> None:
        """Work off batches until `close`, whatever happens to one of them."""
        while (batch := self.batches.take(LOOK_EVERY_S)) is not None:
            jobs = [job for job in batch if job.done.set_running_or_notify_cancel()]
            if jobs:
                self._draw(lane, jobs)
            elif not batch:
                self._look_after(lane)

    def _draw(self, lane: Lane, jobs: list[Job]) -> None:
        """Draw a batch; one that fails is drawn again in orders of their own, each once."""
        size = self.batches.drawn(len(jobs))
        orders = [job.order for job in jobs]
        began = time.perf_counter()
        try:
            pictures = lane.generate(orders + orders[-1:] * (size - len(orders)))
        except Exception as error:
            self._failed(lane, error)
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
            else:
                self._draw_apart(lane, jobs)
            return
        seconds = time.perf_counter() - began
        self._broken.discard(lane.number)
        self.batches.pace.note(size, seconds)
        self._on_batch(len(jobs), seconds)
        for place, job in enumerate(jobs):
            try:
                images.check(pictures[place], place)
            except StageError as error:
                job.done.set_exception(error)
            else:
                job.done.set_result(Drawn(pictures[place].copy(), place in lane.cut))

    def _draw_apart(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Only what an order does itself is its failure; a lane that cannot live fails them all."""
        for place, job in enumerate(jobs):
            if error := self._look_after(lane):
                for left in jobs[place:]:
                    left.done.set_exception(error)
                return
            self._draw(lane, [job])

    def _look_after(self, lane: Lane) -> Exception | None:
        """Replace a worker that is dead; returns why that cannot be done."""
        try:
            lane.revive()
        except Exception as error:
            self._failed(lane, error)
            return error
        self._broken.discard(lane.number)
        return None

    def _failed(self, lane: Lane, error: Exception) -> None:
        if self._ending:
            return
        if not lane.alive:
            self._broken.add(lane.number)
        terminal.say(f"device {lane.device}: {error}")
