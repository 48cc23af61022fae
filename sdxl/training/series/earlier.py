"""Scores of before their key told what the files hold: taken over where no file has changed since.

Which files they were made with, only the clock can say: the kernel's time of the last change, which
a copy with an old date does not set back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def take_over(before: Path, folder: Path, files: Iterable[Path]) -> None:
    """Move into `folder` what `before` has of each weights, all of it written after `files`."""
    try:
        changed = max(each for file in files for each in _changes(file))
        for kept in [each for each in before.iterdir() if each.is_dir()]:
            written = [file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()]
            if min(written, default=0) > changed and not (folder / kept.name).exists():
                kept.rename(folder / kept.name)
    except OSError:
        return  # nothing is there, or cannot be moved: scored anew


def _changes(path: Path) -> Iterator[int]:
    """When a file, or what lies in a folder, and links on the way were last changed, ns."""
    for place in (path, *path.rglob("*")):
        yield place.stat().st_ctime_ns
    for link in (path, *path.absolute().parents):
        if link.is_symlink():
            yield link.lstat().st_ctime_ns
