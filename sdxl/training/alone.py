"""One command at a time in a folder, however many processes it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdxl.core.errors import UserError
from sdxl.training import machine


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else writes into `folder`, made if need be, within the block.

    Raises `UserError`, in all processes, where another command is at it.
    """
    lock, first = FileLock(folder / ".lock"), machine.rank() == 0
    if not machine.agreed(not first or _taken(lock)):
        raise UserError(
            f"another command is writing into {folder}",
            f"{lock.lock_file} is held",
            "one at a time: it goes on where the other one ends",
            "train.run=ANOTHER_NAME",
        )
    try:
        yield
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
