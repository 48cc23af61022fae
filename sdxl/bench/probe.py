"""A look at the machine while it measures: GPU power, clocks, memory, processes; CPU and memory.

The probe is a thread of the waiting parent, not of the measuring process, so it takes nothing from
the figure but the milliseconds of a sample. GPUs are asked by NVML, which makes no CUDA context.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sdxl.bench import energy, gpu_samples
from sdxl.core.busy import is_busy, machine_seconds
from sdxl.core.gpu import Gpus

EVERY_S = 0.4
"""Between two samples."""
MEASURING = "measuring"
"""The worker's phase whose samples count."""
Sample = dict[str, Any]


class Probe:
    """Samples from `with` to the end of it; `phase` names what the worker is doing.

    `before` are the processes that were on the GPUs when nothing of ours was. `only`: indices or
    UUIDs of the GPUs to look at; None: all.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._only = only
        self.samples: list[Sample] = []
        self.before: dict[int, set[int]] = {}
        self._phase = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="probe", daemon=True)
        self._cpu: Cpu | None = None
        self._gpus: Gpus | None = None

    def __enter__(self) -> Self:
        self._cpu, self._gpus = Cpu(), Gpus(self._only)
        self.before = {gpu["index"]: set(gpu["processes"]) for gpu in self._gpus.sample()}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._gpus:
            self._gpus.close()

    def phase(self, name: str) -> None:
        """What the worker is doing from now on; a change is sampled at once."""
        if name != self._phase:
            self._sample()
            self._phase = name

    def write(self, path: Path) -> None:
        """The series, one JSON object a line."""
        path.write_text("".join(f"{json.dumps(sample)}\n" for sample in self.samples))

    def summary(self) -> dict[str, Any]:
        """Means and extremes while measuring; empty if nothing was sampled then."""
        return summarize(self.samples, self.before)

    def energy(self, on_gpu: bool, images: int) -> dict[str, Any]:
        """Joules while measuring, from the sample before it on; empty where nothing counts them."""
        places = [n for n, sample in enumerate(self.samples) if sample["phase"] == MEASURING]
        if not places:
            return {}
        return energy.of(self.samples[max(0, places[0] - 1) : places[-1] + 1], on_gpu, images)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        assert self._cpu and self._gpus
        found = self._cpu.sample()
        if found:
            found |= {"phase": self._phase, "gpus": self._gpus.sample()}
            if counted := energy.rapl():
                found["rapl"] = counted
            self.samples.append(found)


class Cpu:
    """Processor time and memory of our processes, and the processor time of everybody else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._last = self._look()

    def sample(self) -> Sample:
        """Cores busy since the last sample; empty if that was just now."""
        with self._lock:
            last, now = self._last, self._look()
            passed = now["at"] - last["at"]
            if passed < EVERY_S / 8:
                return {}
            self._last = now
        ours = sum(
            max(0.0, seconds - last["ours"].get(pid, 0.0)) for pid, seconds in now["ours"].items()
        )
        busy = max(0.0, now["busy"] - last["busy"])
        return {
            "at_s": round(now["at"] - self._began, 3),
            "passed_s": round(passed, 3),
            "cpu_cores_ours": round(ours / passed, 3),
            "cpu_cores_elsewhere": round(max(0.0, busy - ours) / passed, 3),
            "rss_bytes": now["rss"],
            "processes": sorted(now["ours"]),
        }

    def _look(self) -> dict[str, Any]:
        import psutil

        ours: dict[int, float] = {}
        rss = 0
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                times = process.cpu_times()
                rss += process.memory_info().rss if process.pid != os.getpid() else 0
            except psutil.Error:
                continue
            ours[process.pid] = times.user + times.system
        busy = machine_seconds()
        return {"at": time.monotonic(), "ours": ours, "busy": busy, "rss": rss}


def summarize(samples: list[Sample], before: dict[int, set[int]]) -> dict[str, Any]:
    """Means and extremes of the samples taken while measuring."""
    chosen = [sample for sample in samples if sample["phase"] == MEASURING]
    if not chosen:
        return {}
    passed = sum(sample["passed_s"] for sample in chosen)
    mean = {
        name: round(sum(s[name] * s["passed_s"] for s in chosen) / passed, 3)
        for name in ("cpu_cores_ours", "cpu_cores_elsewhere")
    }
    found: dict[str, Any] = {
        "samples": len(chosen),
        "seconds": round(passed, 3),
        **mean,
        "cpu_cores": os.cpu_count(),
        "rss_max_bytes": max(sample["rss_bytes"] for sample in chosen),
    }
    if gpus := gpu_samples.summarize(chosen, before):
        found["gpus"] = gpus
    return found


def strangers(summary: dict[str, Any], on_gpu: bool) -> list[str]:
    """Who else used what the figure was measured on, in words; empty if nobody did."""
    cores, elsewhere = summary.get("cpu_cores") or 1, summary.get("cpu_cores_elsewhere", 0.0)
    found = []
    if on_gpu:
        for gpu in summary.get("gpus", []):
            if who := gpu["strangers"]:
                found.append(f"others on GPU {gpu['index']}: {', '.join(map(str, who))}")
    elif is_busy(elsewhere, cores):
        found.append(f"the machine was shared: {elsewhere:.1f} of {cores} cores busy elsewhere")
    return found


def series(path: Path, most: int = 500) -> Iterable[tuple[float, dict[str, float]]]:
    """(seconds, numbers by name) of a written series, thinned to at most `most` samples."""
    lines = path.read_text().splitlines()
    for line in lines[:: max(1, -(-len(lines) // most))]:
        sample = json.loads(line)
        numbers = {name: sample[name] for name in ("cpu_cores_ours", "cpu_cores_elsewhere")}
        numbers["memory_gib"] = sample["rss_bytes"] / 2**30
        for gpu in sample["gpus"]:
            for name in gpu_samples.NUMBERS:
                if gpu[name] is not None:
                    numbers[f"gpu_{gpu['index']}_{name}"] = gpu[name]
        yield sample["at_s"], numbers
