"""Joules of a measurement, by the machine's own counters: NVML's of GPUs, RAPL's of processors.

Where no counter can be read there is no figure: none is ever guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
SOURCES = {"nvml": "NVML: the GPUs, without the rest of the machine",
           "rapl": "RAPL: processor packages and memory, whoever used them"}  # fmt: skip


def rapl(root: Path = RAPL) -> dict[str, tuple[int, int]]:
    """Zone -> (microjoules, where its counter starts again at 0) of whole packages and of memory.

    Zones inside a package are parts of it, memory (`dram`) apart. Empty where they are unreadable,
    as they are for everybody but root on most machines.
    """
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith(("package", "dram")):
                continue
            counters = ("energy_uj", "max_energy_range_uj")
            used, most = (int((zone / each).read_text()) for each in counters)
        except (OSError, ValueError):
            continue
        found[zone.name] = (used, most)
    return found


def joules_between(first: dict[str, Any], last: dict[str, Any]) -> float | None:
    """Joules of all zones between two readings; None without any, or where zones differ."""
    if not first or first.keys() != last.keys():
        return None
    spent = 0.0
    for zone, (used, most) in last.items():
        gap = used - first[zone][0]
        spent += gap if gap >= 0 else gap + most  # the counter started again
    return spent / 1e6


def of(samples: Sequence[dict[str, Any]], on_gpu: bool, images: int) -> dict[str, Any]:
    """The record's energy part, of a probe's samples while measuring; empty where none is known.

    On a GPU the energy is that of the GPUs used; RAPL sees no GPU.
    """
    joules, source = (_gpus(samples), "nvml") if on_gpu else (_packages(samples), "rapl")
    if joules is None or joules <= 0:
        return {}
    seconds = samples[-1]["at_s"] - samples[0]["at_s"]
    found = {"joules": round(joules, 3), "watts": round(joules / seconds, 3) if seconds else None}
    if images:
        found["joules_per_image"] = round(joules / images, 6)
    return {**found, "source": SOURCES[source]}


def _packages(samples: Sequence[dict[str, Any]]) -> float | None:
    """A counter that starts again often is read at every sample."""
    readings = [sample.get("rapl") or {} for sample in samples]
    gaps = [joules_between(a, b) for a, b in pairwise(readings)]
    known = [gap for gap in gaps if gap is not None]
    return sum(known) if known and len(known) == len(gaps) else None


def _gpus(samples: Sequence[dict[str, Any]]) -> float | None:
    """All counters must tell: a sum that lacks a GPU is none."""
    if len(samples) < 2 or not samples[0]["gpus"]:
        return None
    pairs = zip(samples[0]["gpus"], samples[-1]["gpus"], strict=True)
    marks = [(first["energy_joules"], last["energy_joules"]) for first, last in pairs]
    if any(None in pair for pair in marks):
        return None
    return sum(last - first for first, last in marks)
