"""Time per stage of one batch, from the stages' own calls: nothing waits inside the loop.

On a GPU the marks are CUDA events, read after the pictures have arrived; elsewhere the host's
clock (on MPS, whose queue empties in `decode`, only the sum means something).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STAGES = {
    "encode": "encode",
    "unet": "unet",
    "part": "unet",
    "decode": "decode",
    "denoise": "denoise",
}
"""Functions of a backend and their names here; `denoise` is its own whole loop."""


class Watched:
    """A backend's stages with a mark before and after each call."""

    def __init__(self, stages: Any) -> None:
        self._stages = stages
        self.marks: list[tuple[str, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stages, name)
        if name not in STAGES:
            return found

        def timed(*args: Any) -> Any:
            begin = _mark()
            result = found(*args)
            self.marks.append((STAGES[name], begin, _mark()))
            return result

        return timed


@contextmanager
def watching(generator: Any) -> Iterator[Watched | None]:
    """The generator's stages watched for the time being; None if it has none."""
    stages = getattr(generator, "stages", None)
    if stages is None:
        yield None
        return
    generator.stages = watched = Watched(stages)
    try:
        yield watched
    finally:
        generator.stages = stages


def milliseconds(watched: Watched | None, seconds: float) -> dict[str, float]:
    """Milliseconds of a finished batch that took `seconds`: each stage, all its calls together.

    `unet_calls` says how many UNet calls there were, also inside a backend's own loop (`denoise`);
    `rest` is the batch's time outside the stages (the sampler's scheduler and guidance).
    """
    if watched is None:
        return {}
    spent: dict[str, float] = {}
    inside = {"unet": 1, "denoise": getattr(watched, "steps", 0)}
    calls = sum(inside.get(name, 0) for name, _, _ in watched.marks)
    for name, begin, end in watched.marks:
        spent[name] = spent.get(name, 0.0) + _between(begin, end)
    found = {name: round(ms, 3) for name, ms in spent.items()}
    found["rest"] = round(max(0.0, 1e3 * seconds - sum(spent.values())), 3)
    return {**found, **({"unet_calls": calls} if calls else {})}


def _mark() -> Any:
    import torch

    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    if isinstance(begin, float):
        return 1e3 * (end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end))
