"""TensorRT's timing cache in the store: kernels timed once are not timed again.

One file per library version and GPU. TensorRT-RTX times nothing ahead of time and has no use for
it; touching one there would look for a GPU.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sdxl import store


def path(version: str, gpu: str) -> Path:
    """The file of this version on this GPU."""
    place = re.sub(r"[^\w.]+", "-", f"{version}-{gpu}")
    return store.root() / "timing" / f"{place}.cache"


def attach(target: Any, file: Path) -> None:
    """Give the builder configuration what is known; an unreadable file counts as none."""
    known = file.read_bytes() if file.is_file() else b""
    if known and target.set_timing_cache(target.create_timing_cache(known), False):
        return
    target.set_timing_cache(target.create_timing_cache(b""), False)


def keep(target: Any, file: Path) -> None:
    """Add what was timed to the file, beside what other builds have added meanwhile."""
    from filelock import FileLock

    ours = target.get_timing_cache()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.is_file():
            ours.combine(target.create_timing_cache(file.read_bytes()), False)
        temporary = file.with_suffix(".part")
        temporary.write_bytes(memoryview(ours.serialize()))
        temporary.replace(file)
