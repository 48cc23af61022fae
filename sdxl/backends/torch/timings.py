"""Kernel timings of this processor, kept in the store: what was fastest once is taken again."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sdxl.core import environment, json_file, store

CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables that take instructions away from the libraries."""

Times = dict[str, float]
"""Milliseconds by kernel."""


def machine() -> str:
    """What timings hold for: processor, threads, instructions in use, version of torch."""
    here = environment.describe()
    caps = [f"{name}={value}" for name in CAPS if (value := os.environ.get(name))]
    parts = (
        here["cpu"],
        f"{here['cores']} cores",
        f"{torch.get_num_threads()} threads",
        torch.backends.cpu.get_cpu_capability(),
        f"torch {torch.__version__}",
    )
    return ", ".join([*parts, *caps])


class Timings:
    """Times by layer kind and shape, read from the machine's file and written into it."""

    def __init__(self) -> None:
        self.machine = machine()
        digest = hashlib.sha256(self.machine.encode()).hexdigest()[:16]
        self.path = store.root() / "kernel_times" / f"{digest}.json"
        self.kept = _read(self.path)

    def of(self, what: str, names: list[str], measure: Callable[[], Times]) -> Times:
        """The times of these kernels, kept or measured now."""
        found = self.kept.get(what)
        if found is None or set(found) != set(names):
            found = self.kept[what] = measure()
            with suppress(OSError):  # a store that cannot be written: timed anew next time
                self.path.parent.mkdir(parents=True, exist_ok=True)
                told = {"machine": self.machine, "times": {**_read(self.path), what: found}}
                store.write_json(self.path, told)
        return found


def _read(path: Path) -> dict[str, Times]:
    """Whole entries of the file; of a damaged one nothing."""
    try:
        found: Any = json_file.read_object(path)["times"]
        return {what: times for what, times in found.items() if _are_times(times)}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _are_times(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(ms, float) and 0 < ms < math.inf for ms in value.values()
    )
