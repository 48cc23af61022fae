"""One command at a time in a folder, however many processes it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.training import machine


@contextmanager
def held(folder: Path, fix: str) -> Iterator[None]:
    """Nobody else writes into `folder`, made if need be, within the block.

    Raises `UserError`, in all processes, where another command is at it; `fix` is the line to type
    in place of this one.
    """
    lock = FileLock(folder / ".lock")
    machine.by_first(lambda: _take(lock, folder, fix))
    try:
        yield
    finally:
        lock.release()


def _take(lock: FileLock, folder: Path, fix: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another command is writing into {folder}",
            f"{lock.lock_file} is held",
            "one at a time: it goes on where the other one ends",
            fix,
        ) from error
    except OSError as error:
        raise store.disk_error(error, folder) from error
