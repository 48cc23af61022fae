"""Milliseconds of one call by the clock that counts: replays of a CUDA graph, the median of them.

A captured step pays no launches, so candidates must not either: a kernel behind much Python would
lose for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

TRIALS = 5
"""Timed replays, or calls on a CPU."""

CALLS = 4
"""Calls in one graph; inputs larger than the second-level cache make rotation needless."""


def ms(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call after one that is not timed; on a CPU the fastest of a few."""
    if device.type == "cuda":
        return _replayed_ms(run)
    run()
    best = float("inf")
    for _ in range(TRIALS):
        began = time.perf_counter()
        run()
        best = min(best, 1e3 * (time.perf_counter() - began))
    return best


def _replayed_ms(run: Callable[[], object]) -> float:
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        run()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Another thread may talk to CUDA meanwhile: a picture on its way to the host.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(CALLS):
            run()
    graph.replay()
    found = []
    for _ in range(TRIALS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / CALLS)
    return statistics.median(found)
