"""Inside a worker of the pool: one generator on one device, a batch for each message."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from sdxl.core import environment, gpu, isolate
from sdxl.core.errors import StageError
from sdxl.core.types import Draws, Generator, Order

Open = Callable[..., Generator]
"""Opens a generator inside a worker; it and its arguments are sent there."""
Batch = Sequence[int] | Sequence[Order]
"""What a worker draws: prompts by qsl index, or orders by a generator that `Draws`."""

UNFIT = "unfit"
"""Kind of an answer: this batch gave no pictures, the next one may."""


def work(
    line: Connection, block_name: str, device: int, open_generator: Open, args: tuple[Any, ...]
) -> None:
    """Open, then draw a batch per message, until the line closes."""
    for each in (signal.SIGINT, signal.SIGTERM):  # sent to a group: it ends with its line
        signal.signal(each, signal.SIG_IGN)
    isolate.no_shared_locks()
    # Before anything touches CUDA: this process sees one device, which is its device 0.
    places = gpu.visible()
    if places is None:
        os.environ[gpu.VARIABLE] = str(device)
    else:  # past its end there is none to see: `preflight` refuses that where one is needed
        os.environ[gpu.VARIABLE] = "".join(places[device : device + 1])
    try:
        block = SharedMemory(block_name)
    except FileNotFoundError:
        return  # given up before it began
    try:
        generator = open_generator(*args)
        line.send(("facts", generator.describe()))
        while (batch := line.recv()) is not None:
            line.send(_answer(generator, batch, block))
        peak = environment.peak_rss_bytes()
        generator.close()
        line.send(("memory", {"peak_rss_bytes": peak}))
    except (EOFError, BrokenPipeError):
        return  # the one that asked is gone
    except BaseException as error:
        line.send(("error", isolate.pack(error)))
    finally:
        block.close()


def _answer(generator: Generator, batch: Batch, block: SharedMemory) -> tuple[str, Any]:
    """Draw into the block; a picture that is none costs the batch, not the worker."""
    if not batch:  # a sign of life
        return "drawn", ((0,), [])
    try:
        pictures = _drawn(generator, batch)
    except StageError as error:
        return UNFIT, isolate.pack(error)
    np.ndarray(pictures.shape, np.uint8, block.buf)[:] = pictures
    return "drawn", (pictures.shape, getattr(generator, "cut", []))


def _drawn(generator: Generator, batch: Any) -> np.ndarray:
    if not isinstance(batch[0], Order):
        return np.asarray(generator.generate(batch))
    assert isinstance(generator, Draws), "this backend draws no orders"
    return np.asarray(generator.draw(batch))
