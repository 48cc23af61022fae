"""One process at a time: a file lock whose waiting is heard.

A child that waits for another's work is silent otherwise, and a silent child is killed. Where
nobody listens, the terminal is told once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdxl.core import terminal

HEARD_EVERY_S = 2.0

hear: Callable[[dict[str, Any]], None] | None = None
"""Who is told while this process waits; set in a watched child."""


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """The lock in the file `path`, within the block; `what` is named while somebody else has it."""
    from filelock import FileLock, Timeout

    lock, began, said = FileLock(path), time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=HEARD_EVERY_S)
            break
        except Timeout:
            phase = f"waiting for {what}, which another process makes"
            if hear:
                hear({"phase": phase, "s": round(time.monotonic() - began, 1)})
            elif not said:
                terminal.say(phase)
                said = True
    try:
        yield
    finally:
        lock.release()
