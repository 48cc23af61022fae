"""Several generators at once: one process per device, pictures through shared memory.

A worker that dies or falls silent is replaced, and its batch given to the new one once that is
warm, as often as `restarts` allows; then the run fails. Every death is counted, and the last ones
are written down.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from sdxl.bench.pool_worker import UNFIT, Batch, Open, work
from sdxl.core import forking, isolate, terminal
from sdxl.core.errors import SdxlError

DEATHS_KEPT = 1000
"""Deaths that are described one by one: a server may live for months."""


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent while it loads, and how often it is replaced.

    a_batch: of these, replacements that a single batch may cost; None: all of them.
    """

    startup_s: float
    restarts: int
    a_batch: int | None = None


class Lane:
    """One worker seen from the process that drives it: a `generate` that survives its death."""

    def __init__(self, pool: Pool, number: int, device: int, block_bytes: int) -> None:
        self._pool, self.number, self.device = pool, number, device
        name = f"sdxl-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._block = SharedMemory(name, create=True, size=block_bytes)
        self._process: Any = None
        self._line: Connection | None = None
        self._doing = "loading"
        self.facts: dict[str, Any] = {}
        self.restarts = self.answers = 0
        self.cut: list[int] = []  # places of the last batch whose text was too long

    @property
    def pid(self) -> int:
        """The worker's process."""
        return int(self._process.pid)

    def start(self) -> None:
        """Start the worker and wait until its generator is open."""
        self._doing = "loading"
        context = forking.method(self._pool.preload)
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work,
            args=(theirs, self._block.name, self.device, self._pool.open, self._pool.args),
            name=f"device-{self.device}",
            daemon=True,
        )
        forking.begin(process, self._pool.patience.startup_s)
        theirs.close()
        self._process, self._line = process, ours
        self.facts = self._answer(self._pool.patience.startup_s)

    def generate(self, indices: Batch) -> np.ndarray:
        """Pictures (B, H, W, 3) in the shared block: they last until the next call."""
        deaths = 0
        while True:
            try:
                if self._line is None:
                    self.start()
                    self._doing = "warming up"
                    for batch in self._pool.warm:
                        self._draw(batch, self._pool.patience.startup_s)
                self._doing = "drawing"
                return self._draw(indices, self._pool.silence_s)
            except (EOFError, OSError) as error:
                deaths += 1
                self._bury(error, len(indices), deaths)

    @property
    def alive(self) -> bool:
        """Whether its worker can be given a batch, as far as can be told without asking it."""
        return self._line is not None and self._process.is_alive()

    def revive(self) -> None:
        """Replace the worker if it died while nobody asked anything of it."""
        if not self.alive:
            self.generate([])

    def stop(self) -> dict[str, Any]:
        """End the worker; returns its peak memory if it still answers."""
        found: dict[str, Any] = {}
        try:
            if self._line:
                self._line.send(None)
                found = self._answer(5.0)
        except (EOFError, OSError):
            found = {}
        except SdxlError as error:  # its work is done: the others are to be ended too
            terminal.say(f"device {self.device}, closing: {error}")
        self._end()
        with contextlib.suppress(FileNotFoundError):
            self._block.unlink()
        with contextlib.suppress(BufferError):  # somebody still looks at the last batch
            self._block.close()
        return found

    def abandon(self) -> None:
        """Kill the worker and give the shared block's name back, whoever still looks at it."""
        if self._process:
            self._process.kill()
        with contextlib.suppress(FileNotFoundError):
            self._block.unlink()

    def _draw(self, indices: Batch, limit_s: float) -> np.ndarray:
        assert self._line
        self._line.send(list(indices))
        shape, self.cut = self._answer(limit_s)
        return np.ndarray(shape, np.uint8, self._block.buf)

    def _answer(self, limit_s: float) -> Any:
        assert self._line
        if not self._line.poll(limit_s):
            raise TimeoutError(f"silent for {limit_s:g} s")
        kind, message = self._line.recv()
        self.answers += 1
        if kind == "error":  # its last word
            self._end()
        if kind in ("error", UNFIT):
            raise isolate.rebuilt(message)
        return message

    def _bury(self, error: Exception, batch: int, deaths: int) -> None:
        """Note the death, one of `deaths` in a batch; raise `WorkerDied` if it was one too many."""
        started = self._line is not None
        how = self.exit() if started and not isinstance(error, TimeoutError) else str(error)
        self._end()
        self.restarts += 1
        patience = self._pool.patience
        again = self.restarts <= patience.restarts and not self._pool.abandoned
        alone = patience.a_batch is not None and deaths > patience.a_batch
        again = again and not alone
        self._pool.note(self, how, self._doing, batch if again and self._doing == "drawing" else 0)
        if not again:
            raise isolate.WorkerDied(
                f"the worker of device {self.device} died: {how}",
                f"{self.restarts} times, last while {self._doing}, for a batch of {batch} samples",
                "a worker that lives",
                None if alone else f"backend.restarts={4 * max(1, patience.restarts)}",
            )

    @property
    def over(self) -> bool:
        """Whether the worker's process has ended, or does so within a second."""
        if self._process is None:
            return False
        self._process.join(1.0)  # its pipe closes a moment before it is gone
        return not self._process.is_alive()

    def exit(self) -> str:
        """How it ended: a signal's name or an exit code."""
        self._process.join(5)
        code = self._process.exitcode
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"

    def _end(self) -> None:
        if self._line:
            self._line.close()
            self._line = None
        if self._process:
            self._process.kill()
            self._process.join(10)


class Pool:
    """The workers of `devices`; itself a `Generator`, which draws with the first of them."""

    def __init__(
        self,
        open_generator: Open,
        args: tuple[Any, ...],
        devices: Sequence[int],
        block_bytes: int,
        *,
        preload: Sequence[str],
        patience: Patience,
        warm: Sequence[Batch] = (),
    ) -> None:
        """`warm`: batches that a replacement draws before it is given samples.

        While drawing a worker may be silent for `silence_s`, until told otherwise as long as
        while loading.
        """
        self.open, self.args, self.preload = open_generator, args, preload
        self.patience, self.silence_s, self.warm = patience, patience.startup_s, warm
        self.abandoned = False
        self.deaths: deque[dict[str, Any]] = deque(maxlen=DEATHS_KEPT)
        self.peak_rss_bytes = 0
        self._began, self._lock = time.monotonic(), threading.Lock()
        isolate.before_leaving.append(self.abandon)
        self.lanes: list[Lane] = []
        self.lanes += [
            Lane(self, number, device, block_bytes) for number, device in enumerate(devices)
        ]
        try:
            with ThreadPoolExecutor(len(self.lanes)) as threads:
                list(threads.map(Lane.start, self.lanes))
        except (EOFError, OSError) as error:
            ends = [f"device {each.device}: {each.exit()}" for each in self.lanes if each.over]
            self.close()
            said = "; ".join(ends) or str(error)
            raise isolate.WorkerDied("a worker died while loading", said) from error
        except BaseException:
            self.close()
            raise

    @property
    def restarts(self) -> int:
        """Workers that died, all of them."""
        return sum(lane.restarts for lane in self.lanes)

    @property
    def answers(self) -> int:
        """Messages that all workers have sent: batches, and steps of being loaded."""
        return sum(lane.answers for lane in self.lanes)

    def generate(self, indices: Sequence[int]) -> np.ndarray:
        """One batch on the first device."""
        return self.lanes[0].generate(indices)

    def describe(self) -> dict[str, Any]:
        """The first worker's facts, the devices, and who died."""
        devices = [lane.device for lane in self.lanes]
        deaths = list(self.deaths)
        earlier = self.restarts - len(deaths)
        dropped = {"earlier_deaths": earlier} if earlier else {}
        return {**self.lanes[0].facts, "devices": devices, "deaths": deaths, **dropped}

    def close(self) -> None:
        """End every worker; `peak_rss_bytes` is their sum afterwards."""
        found = [lane.stop() for lane in self.lanes]
        self.peak_rss_bytes = sum(facts.get("peak_rss_bytes", 0) for facts in found)

    def abandon(self) -> None:
        """Before this process leaves in a hurry: no worker and no shared block stays behind."""
        self.abandoned = True
        for lane in self.lanes:
            lane.abandon()

    def note(self, lane: Lane, how: str, doing: str, issued_again: int) -> None:
        """Write a death down."""
        with self._lock:
            self.deaths.append(
                {
                    "device": lane.device,
                    "how": how,
                    "while": doing,
                    "after_s": round(time.monotonic() - self._began, 3),
                    "samples_issued_again": issued_again,
                }
            )
