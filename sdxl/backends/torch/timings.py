"""Kernel timings of this processor, kept in the store: what was fastest once is taken again.

Timings of a moment when others used the machine hold for their own run and are not kept.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sdxl.core import busy, environment, json_file, store

CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables that take instructions away from the libraries."""

Times = dict[str, float]
"""Milliseconds by kernel."""


def machine() -> str:
    """What timings hold for: processor, threads, instructions in use, version of torch."""
    here = environment.describe()
    caps = [f"{name}={value}" for name in CAPS if (value := os.environ.get(name))]
    parts = (
        environment.processor(),
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
        self.unkept = 0
        """Timings of busy moments, which the next run takes anew."""
        self._watch = busy.Watch()

    def of(self, what: str, names: list[str], measure: Callable[[], Times]) -> Times:
        """The times of these kernels, kept or measured now."""
        found = self.kept.get(what)
        if found is None or set(found) != set(names):
            found = self.kept[what] = measure()
            if busy.is_busy(self._watch.elsewhere()):
                self.unkept += 1
            else:
                self._keep(what, found)
        return found

    def _keep(self, what: str, found: Times) -> None:
        with suppress(OSError):  # a store that cannot be written: timed anew next time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            times = {**_read(self.path), what: found}
            store.write_json(self.path, {"machine": self.machine, "quiet": True, "times": times})


def _read(path: Path) -> dict[str, Times]:
    """Whole entries of the file; of a damaged one, or one that asked for no quiet, nothing."""
    try:
        told: Any = json_file.read_object(path)
        found = told["times"] if told["quiet"] else {}
        return {what: times for what, times in found.items() if _are_times(times)}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _are_times(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(ms, float) and 0 < ms < math.inf for ms in value.values()
    )
