"""Milliseconds of one call by the clock that counts: replays of a CUDA graph, the median of them.

A captured step pays no launches, so candidates must not either: a kernel behind much Python would
lose for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

TRIALS = 5
"""Timed replays, or calls on a CPU."""

CALLS = 4
"""Calls in one graph; inputs larger than the second-level cache make rotation needless."""

_shared: dict[str, Any] = {}
"""The pool's handle, the stream, and the last graph, which keeps the pool alive for PyTorch."""


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


def captured(runs: Sequence[Callable[[], object]]) -> Any:
    """A CUDA graph of calls that have all been made before.

    Not by `torch.cuda.graph`, which gives the allocator's whole cache back at every capture. All
    share one pool of memory: a graph is of no more use when the next has been captured.
    """
    pool = _shared.setdefault("pool", torch.cuda.graph_pool_handle())
    # One stream for all: cuBLAS keeps a workspace for each that it has seen.
    aside = _shared["stream"] = _shared.get("stream") or torch.cuda.Stream()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(aside):
            _capture(graph, pool, runs)
    except BaseException:
        # To PyTorch the pool is still being recorded to: the next capture would be refused.
        _shared.clear()
        raise
    _shared["last"] = graph
    return graph


def _capture(graph: Any, pool: Any, runs: Sequence[Callable[[], object]]) -> None:
    # Another thread may talk to CUDA meanwhile: a picture on its way to the host.
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        for run in runs:
            run()
    except BaseException:
        with suppress(RuntimeError):  # the capture is broken; what broke it is told
            graph.capture_end()
        raise
    graph.capture_end()


def _replayed_ms(run: Callable[[], object]) -> float:
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        run()
    here.wait_stream(aside)
    graph = captured([run] * CALLS)
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
