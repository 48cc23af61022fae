"""The next rows are read while the step before them is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Ahead:
    """What `get` gives for each of `wanted`, in order; with a thread, two of them ahead.

    `wanted` are made as they are needed: each is asked for once, and a failure is raised where its
    own result is taken.
    """

    def __init__(self, get: Callable[[Any], Any], wanted: Iterator[Any], threaded: bool) -> None:
        self._get, self._wanted = get, wanted
        self._pool = ThreadPoolExecutor(1, "rows") if threaded else None
        self._coming: deque[Future[Any]] = deque()

    def take(self) -> Any:
        """The next one."""
        if self._pool is None:
            return self._get(next(self._wanted))
        self._fill(2)
        found = self._coming.popleft()
        self._fill(2)
        return found.result()

    def _fill(self, count: int) -> None:
        assert self._pool
        while len(self._coming) < count and (item := next(self._wanted, None)) is not None:
            self._coming.append(self._pool.submit(self._get, item))

    def close(self) -> None:
        """Nothing is read any more."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
