"""Whether the host lets this machine's processors alone, as far as a guest can see it.

A virtual machine's processors wander between the host's cores and share them with other guests:
nothing in the guest counts it, and what splits its work over threads gets up to 1.9 times slower
while single threads, memory and the load average look the same. The time of a parallel region that
does nothing shows it: on an AMD EPYC 1.2 us with both processors near each other and 1.7 to 3 us
without (`benchmarks/RESULTS.md`, "Quiet, and how it is known").
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sdxl.core import json_file, store

DOUBTFUL = 1.5
"""So many times the least reading since the machine started puts a figure in doubt."""
_BLOCKS, _REGIONS = 5, 300
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables that say whether threads wait awake, which a region's time depends on most."""


class Gauge:
    """Reads the time of an empty parallel region of `threads` threads, in microseconds."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._library = _gomp() if threads > 1 else None
        self.least = float("inf")

    @property
    def there(self) -> bool:
        """Whether this process has what is timed: GNU's OpenMP, and more than one thread."""
        return self._library is not None

    def read(self) -> float:
        """Now; 3 ms. 0.0 where nothing can be timed."""
        if self._library is None:
            return 0.0
        region, barrier = self._library.GOMP_parallel, self._library.GOMP_barrier
        found = []
        for _ in range(_BLOCKS):
            began = time.perf_counter()
            for _ in range(_REGIONS):
                region(barrier, None, self.threads, 0)
            found.append((time.perf_counter() - began) / _REGIONS * 1e6)
        now = statistics.median(found)
        self.least = min(self.least, now)
        return now

    def calm(self, *readings: float, tolerance: float = 1.3) -> bool:
        """Whether all of them are near the least one seen so far."""
        return not self.there or max(readings) <= tolerance * self.least


class Around:
    """Readings before and after a measurement on the processor; `facts` once it is over."""

    def __init__(self) -> None:
        torch = sys.modules.get("torch")  # brings the OpenMP; not loaded for this
        self._gauge = Gauge(torch.get_num_threads() if torch else 1)
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._before = self._gauge.read()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._gauge.there:
            return
        after = self._gauge.read()
        threads = self._gauge.threads
        found = {"before_us": self._before, "after_us": after, "least_us": self._least()}
        self.facts = {"threads": threads, **{name: round(us, 3) for name, us in found.items()}}

    def _least(self) -> float:
        """Of all runs alike since the machine started; another host has other distances."""
        path = store.root() / "rooflines" / "parallel_region.json"
        boot = _BOOT.read_text().strip() if _BOOT.is_file() else ""
        kept: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            kept = json_file.read_object(path)
        known = kept.get("least_us") if kept.get("boot") == boot else None
        known = known if isinstance(known, dict) else {}
        waiting = [f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ]
        alike = " ".join([f"{self._gauge.threads} threads", *waiting])
        least = self._gauge.least
        if isinstance(before := known.get(alike), float) and before > 0:
            least = min(least, before)
        with suppress(OSError):  # a store that cannot be written: this run alone is known
            path.parent.mkdir(parents=True, exist_ok=True)
            store.write_json(path, {"boot": boot, "least_us": {**known, alike: least}})
        return least


def doubt(facts: dict[str, Any]) -> str | None:
    """That the host disturbed the run, in words; None if nothing shows it."""
    if not facts:
        return None
    worst, least = max(facts["before_us"], facts["after_us"]), facts["least_us"]
    if worst <= DOUBTFUL * least:
        return None
    return (
        f"the host had the processors apart: an empty parallel region took {worst:.1f} us, "
        f"{least:.1f} us at best since the machine started; threads are slower meanwhile"
    )


def _gomp() -> ctypes.CDLL | None:
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.is_file() else []
    found = sorted({line.split()[-1] for line in lines if "libgomp" in line})
    torchs = [path for path in found if "/torch/" in path]  # other packages bring theirs
    return ctypes.CDLL((torchs or found)[0]) if found else None
