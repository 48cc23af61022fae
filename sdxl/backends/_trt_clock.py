"""Time per stage on the GPU's own clock: nothing waits while the measurement runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

KEPT = 512
"""Newest calls per stage that count."""


class Clock:
    """CUDA events around each call of a stage, read only when somebody asks."""

    def __init__(self, event: Any = torch.cuda.Event) -> None:
        self._event = event
        self._calls: dict[str, deque[tuple[Any, Any]]] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Mark begin and end of one call on the current stream."""
        begin, end = self._event(enable_timing=True), self._event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._calls.setdefault(stage, deque(maxlen=KEPT)).append((begin, end))

    def means_ms(self) -> dict[str, float]:
        """Mean milliseconds per call by stage; waits for the last call to finish."""
        found = {}
        for stage, calls in self._calls.items():
            calls[-1][1].synchronize()
            found[stage] = sum(begin.elapsed_time(end) for begin, end in calls) / len(calls)
        return found
