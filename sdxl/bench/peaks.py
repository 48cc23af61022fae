"""What this machine reaches at most: matrix products by number format, and its memory.

Measured warm and long, once for each device, format and number of threads; kept in the store.
Beside other programs a call takes as long as they let it: then the processor time of one thread
counts, once for each thread, and the peak is measured again when the machine is quiet.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdxl.core import busy, environment, json_file, store

LONG_S = 0.7
"""Of work of each size in which a peak is looked for."""
TOO_LONG = 1.5
"""So many times `LONG_S` for one size, and no larger one is tried."""
ALONE_S = 0.15
"""The same in processor time of one thread, which a busy machine stretches."""
SIZES = (512, 1024, 2048)
"""Rows of the square matrices whose product is tried on a processor."""
GPU_SIZE = 8192
"""The same on a GPU: less does not fill it."""
COPIED = 256 << 20
"""Bytes of the memory test: no cache holds them."""
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INT8, MEMORY = "int8", "memory"
CACHE_BYTES = 32 << 20
"""Of the last level, where the machine does not say."""


@dataclass(frozen=True)
class Peak:
    """Operations/s or bytes/s, and whether nobody else used the machine meanwhile."""

    value: float
    quiet: bool = True


def matrix(dtype: torch.dtype, sizes: Sequence[int] = SIZES[1:2], device: str = "cpu") -> Peak:
    """Operations/s of the best square product; INT8 adds up in 32 bits."""
    return _fastest(_products(dtype, sizes, device), device)


def _products(dtype: torch.dtype, sizes: Sequence[int], device: str) -> list[Work]:
    def product(size: int) -> Work:
        if dtype is torch.int8:
            factors = [torch.randint(-127, 128, (size, size), dtype=dtype, device=device)] * 2
            return 2 * size**3, lambda: torch._int_mm(*factors)
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return 2 * size**3, lambda: left @ right

    return [product(size) for size in sizes]


def bandwidth(device: str = "cpu") -> Peak:
    """Bytes/s of a copy, read and written bytes both counted."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _fastest([(2 * COPIED, lambda: target.copy_(source))], device, shared=True)


def known(what: str, device: str, name: str, again: bool = False) -> float:
    """A peak of the device called `name`, from the store or measured now.

    what: `fp32`, `bf16`, `fp16`, `int8` in operations/s, or `memory` in bytes/s. `again`: measure
    it once more; the larger one is kept, since a busy moment can only make a peak look lower.
    """
    path = machine_file()
    key = entry(what, name, torch.get_num_threads())
    doubt = f"{key}, beside other programs"
    kept = _read(path)
    if not again and key in kept:
        return kept[key]
    if not again and doubt in kept and busy.is_busy(busy.Watch().elsewhere()):
        return kept[doubt]
    found = _measure(what, device)
    value = max(found.value, kept.get(key, 0.0), kept.get(doubt, 0.0))
    with suppress(OSError):  # a store that cannot be written: measured anew next time
        path.parent.mkdir(parents=True, exist_ok=True)
        now = {k: v for k, v in _read(path).items() if k != doubt}
        store.write_json(path, {**now, key if found.quiet or key in kept else doubt: value})
    return value


def cache_bytes() -> int:
    """Size of the processor's last cache: factors that it holds do not wait for the memory."""
    found = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    with suppress(OSError, ValueError, IndexError):
        return int(found[-1].read_text().strip().removesuffix("K")) << 10
    return CACHE_BYTES


def _measure(what: str, device: str) -> Peak:
    if what == MEMORY:
        return bandwidth(device)
    dtype = torch.int8 if what == INT8 else getattr(torch, DTYPES[what])
    return matrix(dtype, SIZES if device == "cpu" else (GPU_SIZE,), device)


Work = tuple[float, Callable[[], Any]]
"""Operations or bytes of a call, and the call."""


def _fastest(works: Sequence[Work], device: str, shared: bool = False) -> Peak:
    """The best rate of the calls; `shared`: threads do not add up, as those that copy memory."""
    watch, best = busy.Watch(), 0.0
    for work in works:
        began = time.perf_counter()
        best = max(best, _rate(work, device, time.perf_counter))
        if time.perf_counter() - began > TOO_LONG * LONG_S:
            break  # arithmetic that the processor lacks: the next size takes eight times as long
    if device != "cpu" or not busy.is_busy(watch.elsewhere()):
        return Peak(best)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = _rate(works[0], device, time.thread_time)
    finally:
        torch.set_num_threads(threads)
    return Peak(max(best, alone if shared else threads * alone), quiet=False)


def _rate(work: Work, device: str, clock: Callable[[], float]) -> float:
    """The fastest of the calls in so long; the first ones warm up and are slower."""
    amount, call = work
    best, began = float("inf"), clock()
    long_s = ALONE_S if clock is time.thread_time else LONG_S
    with torch.inference_mode():
        while (now := clock()) - began < long_s or best == float("inf"):
            call()
            if device != "cpu":
                torch.cuda.synchronize(device)
            best = min(best, clock() - now)
    return amount / best


def entry(what: str, name: str, threads: int) -> str:
    """What a peak is called in the file."""
    return f"{what} on {name}, {threads} threads"


def machine_file() -> Path:
    """This machine's file: another processor or another torch has others."""
    here = environment.describe()
    machine = f"{environment.processor()}, {here['cores']} cores, torch {here['packages']['torch']}"
    digest = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return store.root() / "rooflines" / f"{digest}.json"


def _read(path: Path) -> dict[str, float]:
    try:
        found = json_file.read_object(path)
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, float) and 0 < v < math.inf}
