"""What NVIDIA's management library says of each GPU, and who is on it. No GPU: no samples."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

NUMBERS = (
    "power_watts", "sm_clock_mhz", "memory_clock_mhz", "memory_used_gib", "utilization_percent",
    "temperature_c",
)  # fmt: skip
"""What is read of a GPU as a number; None where it does not tell."""

REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of the clocks' event reasons (nvml.h) that mean a GPU runs slower than it could."""


class Gpus:
    """The GPUs that NVML shows; none without a driver or without nvidia-ml-py.

    `only`: indices or UUIDs of those that the measurement was given.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._nvml: Any = None
        self._handles: dict[int, Any] = {}
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            count = pynvml.nvmlDeviceGetCount()
            for index in range(count):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                names = {str(index), str(pynvml.nvmlDeviceGetUUID(handle))}
                if only is None or not names.isdisjoint(only):
                    self._handles[index] = handle
        except Exception:  # no library, no driver: a machine without NVIDIA GPUs
            self._handles = {}

    def sample(self) -> list[dict[str, Any]]:
        """Numbers, reasons for lower clocks and processes of each GPU."""
        return [self._one(index, handle) for index, handle in self._handles.items()]

    def close(self) -> None:
        """Let go of the library."""
        if self._nvml:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def _one(self, index: int, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        reasons = getattr(
            nvml, "nvmlDeviceGetCurrentClocksEventReasons",
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
        )  # fmt: skip

        def ask(question: Callable[..., Any], *words: Any) -> Any:
            try:
                return question(handle, *words)
            except nvml.NVMLError:  # not every GPU answers everything
                return None

        power, memory = ask(nvml.nvmlDeviceGetPowerUsage), ask(nvml.nvmlDeviceGetMemoryInfo)
        load = ask(nvml.nvmlDeviceGetUtilizationRates)
        there = ask(nvml.nvmlDeviceGetComputeRunningProcesses) or []
        return {
            "index": index,
            "power_watts": None if power is None else power / 1e3,
            "sm_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "memory_used_gib": None if memory is None else memory.used / 2**30,
            "utilization_percent": None if load is None else load.gpu,
            "temperature_c": ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            "energy_joules": _thousandth(ask(nvml.nvmlDeviceGetTotalEnergyConsumption)),
            "reasons": reasons_of(ask(reasons) or 0),
            "processes": sorted(process.pid for process in there),
        }


def reasons_of(bits: int) -> list[str]:
    """The bits of the clocks' event reasons in words."""
    return [word for bit, word in REASONS.items() if bits & bit]


def foreign(before: set[int], now: set[int], ours: set[int]) -> set[int]:
    """Processes on a GPU that are not ours.

    In a container NVML may show other process ids than ours: then none of ours is seen, and only
    those count that were there before us and still are.
    """
    return now - ours if now & ours else now & before


def summarize(samples: list[dict[str, Any]], before: dict[int, set[int]]) -> list[dict[str, Any]]:
    """Means and extremes of each GPU over samples of a probe."""
    found = []
    for place, first in enumerate(samples[0]["gpus"]):
        seen = [sample["gpus"][place] for sample in samples]
        index = first["index"]
        others: set[int] = set()
        for sample, gpu in zip(samples, seen, strict=True):
            others |= foreign(before.get(index, set()), set(gpu["processes"]),
                              set(sample["processes"]))  # fmt: skip
        counted = Counter(reason for gpu in seen for reason in gpu["reasons"])
        whole: dict[str, Any] = {"index": index}
        for name in NUMBERS:
            values = [gpu[name] for gpu in seen if gpu[name] is not None]
            if values:
                whole |= {f"{name}_mean": round(sum(values) / len(values), 3),
                          f"{name}_min": min(values), f"{name}_max": max(values)}  # fmt: skip
        marks = [gpu["energy_joules"] for gpu in (seen[0], seen[-1])]
        if None not in marks:
            whole["energy_joules"] = round(marks[1] - marks[0], 3)
        whole["slowed"] = {reason: round(n / len(seen), 3) for reason, n in counted.items()}
        whole["strangers"] = [_name(pid) for pid in sorted(others)]
        found.append(whole)
    return found


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1e3


def _name(pid: int) -> str:
    try:
        import psutil

        return f"{pid} {psutil.Process(pid).name()}"
    except Exception:  # gone, hidden, or of another namespace
        return f"{pid}" if pid != os.getpid() else "we"
