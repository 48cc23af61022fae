"""What this machine reaches at most: matrix products by number format, and its memory.

Measured warm and long, once for each device, format and number of threads; kept in the store.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sdxl.core import environment, json_file, store

LONG_S = 0.7
"""Of work in which a peak is looked for."""
SIZES = (1024, 2048)
"""Rows of the square matrices whose product is tried on a processor."""
GPU_SIZE = 8192
"""The same on a GPU: less does not fill it."""
COPIED = 256 << 20
"""Bytes of the memory test: no cache holds them."""
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INT8, MEMORY = "int8", "memory"
CACHE_BYTES = 32 << 20
"""Of the last level, where the machine does not say."""


def matrix(dtype: torch.dtype, size: int = SIZES[0], device: str = "cpu") -> float:
    """Operations/s of the best square product; INT8 adds up in 32 bits."""
    if dtype is torch.int8:
        factors = [torch.randint(-127, 128, (size, size), dtype=dtype, device=device)] * 2
        return 2 * size**3 / _least_s(lambda: torch._int_mm(*factors), device)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _least_s(lambda: left @ right, device)


def bandwidth(device: str = "cpu") -> float:
    """Bytes/s of a copy, read and written bytes both counted."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / _least_s(lambda: target.copy_(source), device)


def known(what: str, device: str, name: str, again: bool = False) -> float:
    """A peak of the device called `name`, from the store or measured now.

    what: `fp32`, `bf16`, `fp16`, `int8` in operations/s, or `memory` in bytes/s. `again`: measure
    it once more; the larger one is kept, since a busy moment can only make a peak look lower.
    """
    path = machine_file()
    key = entry(what, name, torch.get_num_threads())
    kept = _read(path)
    if key in kept and not again:
        return kept[key]
    found = max(_measure(what, device), kept.get(key, 0.0))
    with suppress(OSError):  # a store that cannot be written: measured anew next time
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path, {**_read(path), key: found})
    return found


def cache_bytes() -> int:
    """Size of the processor's last cache: factors that it holds do not wait for the memory."""
    found = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    with suppress(OSError, ValueError, IndexError):
        return int(found[-1].read_text().strip().removesuffix("K")) << 10
    return CACHE_BYTES


def _measure(what: str, device: str) -> float:
    if what == MEMORY:
        return bandwidth(device)
    dtype = torch.int8 if what == INT8 else getattr(torch, DTYPES[what])
    sizes = SIZES if device == "cpu" else (GPU_SIZE,)
    return max(matrix(dtype, size, device) for size in sizes)


def _least_s(work: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest of the calls in `LONG_S`; the first ones warm up and are slower."""
    best, began = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while (now := time.perf_counter()) - began < LONG_S or best == float("inf"):
            work()
            if device != "cpu":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - now)
    return best


def entry(what: str, name: str, threads: int) -> str:
    """What a peak is called in the file."""
    return f"{what} on {name}, {threads} threads"


def machine_file() -> Path:
    """This machine's file: another processor or another torch has others."""
    here = environment.describe()
    machine = f"{here['cpu']}, {here['cores']} cores, torch {here['packages']['torch']}"
    digest = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return store.root() / "rooflines" / f"{digest}.json"


def _read(path: Path) -> dict[str, float]:
    try:
        found = json_file.read_object(path)
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, float) and 0 < v < math.inf}
