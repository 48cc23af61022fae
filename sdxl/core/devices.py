"""One GPU per running measurement: whoever comes first takes the first that is free.

Sweeps in two terminals, or the parallel cells of one sweep, would otherwise all use GPU 0. A GPU is
taken by a lock file on its machine, and freed by the system if its holder dies.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
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

    folder = _folder()
    with ExitStack() as held:
        for place in sorted(used({}, wanted)):  # one order for all: no deadlock
            lock = FileLock(folder / f"{place}.lock", timeout=0)
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

    Empty where there is none, or only one, to choose from: nothing is changed then. `waiting` is
    told when all are taken.
    """
    places = list(names())
    if len(places) < 2:
        yield {}
        return
    from filelock import FileLock, Timeout

    folder = _folder()
    with ExitStack() as held:
        while True:
            for place in places:
                try:
                    held.enter_context(FileLock(folder / f"{place}.lock", timeout=0))
                except Timeout:
                    continue
                yield {VARIABLE: place}
                return
            waiting(f"all {len(places)} GPUs are measuring")
            time.sleep(LOOK_EVERY_S)


def used(env: Mapping[str, str], wanted: Sequence[int] | None) -> list[str]:
    """The GPUs of a measurement, as `CUDA_VISIBLE_DEVICES` has them; `env` is from `reserve`."""
    places = [env[VARIABLE]] if VARIABLE in env else list(names())
    if wanted is None:
        return places
    return [places[number] for number in wanted if number < len(places)]


def _folder() -> Path:
    """Where the locks are."""
    folder = Path(tempfile.gettempdir()) / f"sdxl-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def names() -> dict[str, str]:
    """GPUs that may be used, as `CUDA_VISIBLE_DEVICES` has them -> their product names.

    By NVML, so that no CUDA context is made here; a name is empty where NVML knows none.
    """
    found = _by_nvml()
    visible = os.environ.get(VARIABLE)
    if visible is None:
        return {place: name for place, name in found.items() if place.isdigit()}
    listed = takewhile("-1".__ne__, map(str.strip, visible.split(",")))  # CUDA stops there
    return {place: found.get(place, "") for place in listed if place}


def _by_nvml() -> dict[str, str]:
    """Product names by index and by UUID."""
    try:
        import pynvml

        pynvml.nvmlInit()
        found: dict[str, str] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = str(pynvml.nvmlDeviceGetName(handle))
            found |= {str(index): name, str(pynvml.nvmlDeviceGetUUID(handle)): name}
        return found
    except Exception:  # no NVML, no driver: no GPU that counts
        return {}
