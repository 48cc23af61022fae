"""Folders that are put in place whole: who reads one never finds half of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

_LEFT = re.compile(r"\.(?P<name>.+?)(?P<before>\.before)?\.\d+")
"""What stands beside a file or a folder while it is written: its name and a process."""


def whole(folder: Path, write: Callable[[Path], None]) -> None:
    """What `write` puts into the empty folder that it is given, in place of what was there."""
    beside, before = (
        folder.with_name(f".{folder.name}.{word}{os.getpid()}") for word in ("", "before.")
    )
    try:
        beside.mkdir(parents=True)
        write(beside)
        if folder.is_dir():
            folder.replace(before)
        beside.replace(folder)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sweep(*folders: Path) -> None:
    """Remove what killed processes left half written; nobody else may be writing there.

    A folder whose old version was out of the way, and the new one not yet in place, comes back.
    """
    for left in [each for folder in folders for each in folder.glob(".*")]:
        if not (found := _LEFT.fullmatch(left.name)):
            continue
        if found["before"] and not left.with_name(found["name"]).exists():
            left.replace(left.with_name(found["name"]))
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
