"""Which tile is fastest: by replaying a captured graph on real operands, as a run will."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from triton.runtime import errors

from sdxl.backends.torch import clock
from sdxl.backends.torch.kernels import tiles
from sdxl.backends.torch.kernels.tiles import Tile
from sdxl.backends.torch.kernels.words import short

REPLAYS = 9
"""Timed replays; their median counts."""

BLOCK_MS = 2.0
"""A graph repeats the call until one replay takes about as long."""

MOST_CALLS = 50

REFUSED = (errors.OutOfResources, errors.PTXASError, triton.CompilationError, RuntimeError)
"""What a tile that this device or compiler cannot do raises: left out, with its text."""


WORTH_TIMING = 1 << 16
"""Outputs of a product; a smaller one takes the last tile of its list, the smallest."""

_chosen: dict[tuple[Any, ...], Tile] = {}
"""The tile that was fastest, by kernel and shape."""


def interpreted() -> bool:
    """Whether kernels run under Triton's interpreter, where time says nothing."""
    return bool(triton.knobs.runtime.interpret)


def fastest(
    key: tuple[Any, ...], run: Callable[[Any], object], listed: tuple[Tile, ...], outputs: int,
    small: Tile = tiles.SMALL,
) -> Tile:  # fmt: skip
    """The fastest tile of a list for one kernel and shape, timed when it is first asked for."""
    if interpreted():
        return small
    if key not in _chosen:
        major, minor = torch.cuda.get_device_capability()
        fitting = tiles.fitting(listed, 10 * major + minor)
        _chosen[key] = fitting[-1] if outputs < WORTH_TIMING else tune(run, fitting)[0]
    return _chosen[key]


def milliseconds(run: Callable[[], object]) -> float:
    """One call's milliseconds on the device, without the time that launching takes the host.

    `run` is called a few times first, so that whatever it compiles or chooses is settled. Where a
    graph cannot be captured (a call that allocates outside the pool or asks the device), events
    around the same calls are timed instead.
    """
    run()
    once = _timed(run, 1)
    calls = max(1, min(MOST_CALLS, int(BLOCK_MS / max(once, 1e-3))))
    try:
        replay: Callable[[], object] = clock.captured([run] * calls).replay
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


def tune(run: Callable[[Any], object], listed: tuple[Tile, ...]) -> tuple[Tile, dict[str, float]]:
    """The tile with which `run(tile)` is fastest, and all milliseconds.

    Raises `RuntimeError` with every tile's error if none of them works on this device.
    """
    times: dict[Tile, float] = {}
    refused: list[str] = []
    for tile in listed:
        try:
            times[tile] = milliseconds(partial(run, tile))
        except REFUSED as error:
            refused.append(f"{tile}: {short(error)}")
    if not times:
        raise RuntimeError("no tile works on this device: " + "; ".join(refused))
    best = min(times, key=times.__getitem__)
    return best, {str(tile): ms for tile, ms in times.items()}
