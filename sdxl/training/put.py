"""Folders that are put in place whole: who reads one never finds half of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


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
