"""TensorRT's timing cache in the store: kernels timed once are not timed again.

One file per library version and GPU. TensorRT-RTX times nothing ahead of time and has no use for
it; touching one there would look for a GPU.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sdxl.core import locks, store


def path(version: str, gpu: str) -> Path:
    """The file of this version on this GPU."""
    place = re.sub(r"[^\w.]+", "-", f"{version}-{gpu}")
    return store.root() / "timing" / f"{place}.cache"


def attach(target: Any, file: Path) -> Any:
    """Give the builder configuration what is known; an unreadable file counts as none.

    Returns the cache, which must live as long as the build.
    """
    for known in (file.read_bytes() if file.is_file() else b"", b""):
        cache = target.create_timing_cache(known)
        if cache is not None and target.set_timing_cache(cache, False):
            return cache
    return None


def keep(target: Any, ours: Any, file: Path) -> None:
    """Add the build's cache to the file, beside what other builds have added meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(Path(f"{file}.lock"), "the timing cache"):
        if file.is_file():
            theirs = target.create_timing_cache(file.read_bytes())
            if theirs is not None:
                ours.combine(theirs, False)
        temporary = file.with_suffix(".part")
        temporary.write_bytes(memoryview(ours.serialize()))
        temporary.replace(file)
