"""Checksums of large files, computed once: remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from sdxl.core import json_file, store

KINDS = ("sha256", "md5")
"""Checksums under which weights are published."""
_BLOCK = 4 << 20


def of(file: Path) -> dict[str, str]:
    """The file's checksums by kind; from the store's memory if the file is as it was.

    A store that cannot be written costs the time again, no more.
    """
    facts = file.stat()
    key, stamp = str(file.resolve()), [facts.st_size, facts.st_mtime_ns]
    kept = _kept()
    if (known := kept.get(key)) and known["stamp"] == stamp:
        return {kind: known[kind] for kind in KINDS}
    found = _read(file)
    with contextlib.suppress(OSError):
        store.root().mkdir(parents=True, exist_ok=True)
        # Another process may have added to it meanwhile: what it loses is computed again.
        store.write_json(_memory(), {**_kept(), key: {"stamp": stamp, **found}})
    return found


def _memory() -> Path:
    return store.root() / "digests.json"


def _kept() -> dict[str, Any]:
    try:
        found = json_file.read_object(_memory())
    except (OSError, ValueError):
        return {}
    return {file: each for file, each in found.items() if _is_entry(each)}


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "stamp" in value
        and all(isinstance(value.get(kind), str) for kind in KINDS)
    )


def _read(file: Path) -> dict[str, str]:
    """One pass for all kinds."""
    digests = [hashlib.new(kind, usedforsecurity=False) for kind in KINDS]
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            for digest in digests:
                digest.update(block)
    return {digest.name: digest.hexdigest() for digest in digests}
