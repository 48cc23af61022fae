"""Which tile is fastest: by replaying a captured graph, as a run will launch it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from triton.runtime import errors

from sdxl.kernels.tiles import Tile

REPLAYS = 9
"""Timed replays; their median counts."""

BLOCK_MS = 2.0
"""A graph repeats the call until one replay takes about as long."""

MOST_CALLS = 50

REFUSED = (errors.OutOfResources, errors.PTXASError, triton.CompilationError, RuntimeError)
"""What a tile that this device or compiler cannot do raises: left out, with its text."""


def milliseconds(run: Callable[[], object]) -> float:
    """One call's milliseconds on the device, without the time that launching takes the host.

    `run` is called a few times first, so that whatever it compiles or chooses is settled. Where a
    graph cannot be captured (a call that allocates outside the pool or asks the device), events
    around the same calls are timed instead.
    """
    run()
    once = _timed(run, 1)
    calls = max(1, min(MOST_CALLS, int(BLOCK_MS / max(once, 1e-3))))
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        replay: Callable[[], object] = graph.replay
    except RuntimeError:
        torch.cuda.synchronize()

        def replay() -> None:
            for _ in range(calls):
                run()

    replay()
    return statistics.median(_timed(replay, calls) for _ in range(REPLAYS))


def _timed(run: Callable[[], object], calls: int) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / calls


def tune(run: Callable[[Any], object], tiles: tuple[Tile, ...]) -> tuple[Tile, dict[str, float]]:
    """The tile with which `run(tile)` is fastest, and all milliseconds.

    Raises `RuntimeError` with every tile's error if none of them works on this device.
    """
    times: dict[Tile, float] = {}
    refused: list[str] = []
    for tile in tiles:
        try:
            times[tile] = milliseconds(partial(run, tile))
        except REFUSED as error:
            refused.append(f"{tile}: {short(error)}")
    if not times:
        raise RuntimeError("no tile works on this device: " + "; ".join(refused))
    best = min(times, key=times.__getitem__)
    return best, {str(tile): ms for tile, ms in times.items()}


def short(error: BaseException) -> str:
    """An exception on one line: its kind, and the end of its text, where compilers say why."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else '...' + text[-197:]}"
