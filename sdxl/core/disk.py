"""Can a folder take what will be written, before hours of work go into it?"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

from sdxl.core import store
from sdxl.core.errors import Problem, SdxlError, UserError

PATIENCE_S = 10.0
"""Seconds for a disk to answer: a dead network disk never does."""
NOTES_BYTES = 4 << 20
"""Ledger, locks and manifests: what any command may write into the store."""
SMALL_BYTES = 64 << 20
"""A folder of results, or what is made of the bundled model."""
_TRIAL = bytes(1 << 16)
STORE_FIX = "SDXL_STORE=FOLDER python ..."


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path("/"))


def link(source: Path, target: Path) -> None:
    """Hard-link a file; a copy only where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def room(folder: Path, needed: int, fix: str) -> list[Problem]:
    """Why a folder cannot take `needed` bytes: read-only, full, a quota, no answer; [] if it can.

    A file without a name is written there for a moment. needed=0: only whether the disk answers.
    """
    found: list[list[Problem]] = []
    looking = threading.Thread(target=lambda: found.append(_look(folder, needed, fix)), daemon=True)
    looking.start()
    looking.join(PATIENCE_S)
    if found:
        return found[0]
    return [Problem(f"the disk of {folder} does not answer", f"nothing in {PATIENCE_S:g} s",
                    "a disk that does, or its mount ended", fix)]  # fmt: skip


def store_ready(needed: int = NOTES_BYTES) -> None:
    """Raise `UserError`, or `SdxlError` for a full disk, if the store cannot take so much."""
    for problem in room(store.root(), needed, STORE_FIX):
        kind = SdxlError if "full" in problem.what else UserError
        raise kind(problem.what, problem.got, problem.expected, problem.fix)


def _look(folder: Path, needed: int, fix: str) -> list[Problem]:
    place = existing(folder)
    if not needed:
        return []
    try:
        if any(each.is_file() for each in (folder, *folder.parents)):
            raise NotADirectoryError(0, "a file is in the way")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(0, "not allowed")
        free = shutil.disk_usage(place).free
        if free >= needed:
            with tempfile.TemporaryFile(dir=place) as trial:
                trial.write(_TRIAL)
                trial.flush()
            return []
    except OSError as error:
        if store.is_full(error):
            free = 0
        else:
            what = f"{folder if isinstance(error, NotADirectoryError) else place} cannot be written"
            return [Problem(what, error.strerror, "a writable folder", fix)]
    return [Problem(f"the disk of {place} is too full", f"{free / 1e9:.2f} GB free",
                    f"about {needed / 1e9:.2f} GB", fix)]  # fmt: skip
