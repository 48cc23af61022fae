"""One process at a time: a file lock whose waiting is heard.

A child that waits for another's work is silent otherwise, and a silent child is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HEARD_EVERY_S = 2.0

hear: Callable[[dict[str, Any]], None] | None = None
"""Who is told while this process waits; set in a watched child."""


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """The lock in the file `path`, within the block; `what` is named while somebody else has it."""
    from filelock import FileLock, Timeout

    lock, began = FileLock(path), time.monotonic()
    while True:
        try:
            lock.acquire(timeout=HEARD_EVERY_S)
            break
        except Timeout:
            if hear:
                waited = round(time.monotonic() - began, 1)
                hear({"phase": f"waiting for {what}, which another process makes", "s": waited})
    try:
        yield
    finally:
        lock.release()
