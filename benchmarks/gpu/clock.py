"""Milliseconds on the device: replays of one captured graph over rotating inputs, their median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

BLOCK_MS = 2.0
"""A replay takes about this long, so that its two events cost nothing."""
REPLAYS = 9
MOST_CALLS = 64
CACHE_BYTES = 128 << 20
"""Twice an H200's second-level cache: inputs in rotation are larger, together."""

PARTIAL = "no epilogue"
"""In the name of a candidate that leaves out what follows the product."""

Run = Callable[[], object]


def ms(runs: Sequence[Run], device: torch.device) -> float:
    """Median milliseconds of one call; `runs` do the same on different inputs.

    Not captured where capturing fails: then events around the launches. On a CPU, once each.
    """
    if device.type != "cuda":
        began = time.perf_counter()
        for run in runs:
            run()
        return 1e3 * (time.perf_counter() - began) / len(runs)
    for run in runs:
        run()
    once = _timed(lambda: [run() for run in runs]) / len(runs)
    rounds = max(1, min(MOST_CALLS, int(BLOCK_MS / max(once, 1e-3))) // len(runs))
    replay = _captured(list(runs) * rounds)
    replay()
    return statistics.median(_timed(replay) for _ in range(REPLAYS)) / (rounds * len(runs))


def _captured(runs: list[Run]) -> Run:
    from sdxl.backends.torch import clock

    try:
        replay: Run = clock.captured(runs).replay
    except RuntimeError:
        torch.cuda.synchronize()
        return lambda: [run() for run in runs]
    return replay


def _timed(run: Run) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def copies(bytes_each: int, device: torch.device) -> int:
    """How many sets of inputs rotate so that no call finds its own in the cache."""
    return 1 if device.type != "cuda" else max(1, min(8, -(-CACHE_BYTES // max(1, bytes_each))))


def candidate(
    runs: Sequence[Run], device: torch.device, flop: float = 0.0, moved: float = 0.0
) -> dict[str, Any]:
    """Milliseconds with TFLOP/s and TB/s, or what it raised: candidates may be impossible.

    Raises if the device is of no more use to this process, for which the session starts another.
    """
    try:
        took = ms(runs, device)
    except Exception as error:  # of a compiler, a library or the device
        alive(device)
        return {"error": told(error)}
    found: dict[str, Any] = {"ms": round(took, 4)}
    if flop:
        found["tflops"] = round(flop / took / 1e9, 1)
    if moved:
        found["tb_per_s"] = round(moved / took / 1e9, 3)
    return found


def alive(device: torch.device) -> None:
    """Raises what the device says if an error has made it useless to this process."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def told(error: BaseException) -> str:
    """An exception on one line, with the end of its text, where compilers say why."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[-600:]}"


def fastest(times: dict[str, dict[str, Any]]) -> str:
    """The name of the fastest candidate that works and does all of the work; empty if none does."""
    whole = {name: each for name, each in times.items() if PARTIAL not in name}
    able = {name: each["ms"] for name, each in whole.items() if "ms" in each}
    return min(able, key=able.__getitem__) if able else ""
