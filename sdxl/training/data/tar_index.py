"""The index beside a tar: what lies where in it, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdxl.core import json_file, store

Parts = dict[str, tuple[int, int]]


def beside(tar: Path) -> Path:
    """Where the index of a tar lies."""
    return tar.with_name(f"{tar.name}.index.json")


def write(tar: Path, made_of: str, samples: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Of a tar that is whole; `made_of`: the key of everything that decided what is in it."""
    store.write_json(beside(tar), {"made_of": made_of, **_state(tar), "samples": [*samples]})


def read(tar: Path) -> list[tuple[str, Parts]] | None:
    """(name, parts) of each sample; None where there is no index of the tar as it is now."""
    found = _found(tar)
    if found is None:
        return None
    try:
        return [
            (str(name), {part: (int(offset), int(size)) for part, (offset, size) in parts.items()})
            for name, parts in found["samples"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def made_of(tar: Path) -> str | None:
    """The key that `write` was given, if the tar is still that one."""
    found = _found(tar)
    return None if found is None else found.get("made_of")


def _found(tar: Path) -> dict[str, Any] | None:
    try:
        found = json_file.read_object(beside(tar))
        return found if {**found, **_state(tar)} == found else None
    except (OSError, ValueError):
        return None


def _state(tar: Path) -> dict[str, int]:
    """A tar that was written again, or copied, has another: it is read through then."""
    stat = tar.stat()
    return {"bytes": stat.st_size, "written_ns": stat.st_mtime_ns}
