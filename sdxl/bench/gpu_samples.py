"""What NVIDIA's management library says of each GPU, and who is on it. No GPU: no samples."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

NUMBERS = (
    "power_watts", "sm_clock_mhz", "memory_clock_mhz", "memory_used_gib", "utilization_percent",
    "temperature_c",
)  # fmt: skip
"""What is read of a GPU as a number; None where it does not tell."""


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


def _name(pid: int) -> str:
    try:
        import psutil

        return f"{pid} {psutil.Process(pid).name()}"
    except Exception:  # gone, hidden, or of another namespace
        return f"{pid}" if pid != os.getpid() else "we"
