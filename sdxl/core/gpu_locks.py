"""A GPU is measured on by one process at a time: lock files hold it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sdxl.core import gpu

LOOK_EVERY_S = 0.5


@contextmanager
def reserve(
    waiting: Callable[[str], None], wanted: Sequence[int] | None
) -> Iterator[dict[str, str]]:
    """The environment of a measurement: `one` GPU, or those of `wanted` for it alone.

    `wanted` are places among the GPUs that may be used, as `backend.devices` has them; the
    environment stays as it is then, and each worker picks its own.
    """
    if wanted is None:
        with one(waiting) as found:
            yield found
        return
    from filelock import FileLock, Timeout

    files = _files()
    with ExitStack() as held:
        # One order for all: no deadlock.
        for place in sorted(used({}, wanted), key=lambda each: files[each].name):
            lock = FileLock(files[place], timeout=0)
            while True:
                try:
                    held.enter_context(lock)
                    break
                except Timeout:
                    waiting(f"GPU {place} is measuring")
                    time.sleep(LOOK_EVERY_S)
        yield {}


@contextmanager
def one(waiting: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The environment that shows a child one GPU which nobody else measures on.

    Empty where there is none, or only one, to choose from: nothing is changed then, and the one is
    held for others to see, if nobody holds it. `waiting` is told when all are taken.
    """
    places = list(gpu.names())
    if not places:
        yield {}
        return
    from filelock import FileLock, Timeout

    files = _files()
    with ExitStack() as held:
        if len(places) == 1:  # who has the only one may be the server that we ask: no waiting
            with suppress(Timeout):
                held.enter_context(FileLock(files[places[0]], timeout=0))
            yield {}
            return
        while True:
            for place in places:
                try:
                    held.enter_context(FileLock(files[place], timeout=0))
                except Timeout:
                    continue
                yield {gpu.VARIABLE: place}
                return
            waiting(f"all {len(places)} GPUs are measuring")
            time.sleep(LOOK_EVERY_S)


def used(env: Mapping[str, str], wanted: Sequence[int] | None) -> list[str]:
    """The GPUs of a measurement, as `CUDA_VISIBLE_DEVICES` has them; `env` is from `reserve`."""
    places = [env[gpu.VARIABLE]] if gpu.VARIABLE in env else list(gpu.names())
    if wanted is None:
        return places
    return [places[number] for number in wanted if number < len(places)]


def _files() -> dict[str, Path]:
    """The lock of each GPU, named by its UUID: indices begin anew in each job of a cluster."""
    folder = Path(tempfile.gettempdir()) / f"sdxl-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    known = gpu.uuids()
    return {place: folder / f"{known.get(place) or place}.lock" for place in gpu.names()}
