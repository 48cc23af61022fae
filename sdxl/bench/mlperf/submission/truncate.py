"""LoadGen's accuracy log as a submission carries it: its hash, its beginning and its end."""

from __future__ import annotations

import hashlib
from pathlib import Path

LARGEST = 10 * 1024
"""Bytes that the checker accepts."""
SHOWN = 4096
"""Bytes that the official tool keeps of either end."""
GAP = b"\n\n...\n\n"


def truncate(log: Path, target: Path) -> str:
    """Write `log`, cut as tools/submission/truncate_accuracy_log.py cuts it; returns its SHA-256.

    The log may have tens of gigabytes and is read once, a megabyte at a time. One that the checker
    would accept whole stays whole.
    """
    with log.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, 2)
        file.seek(0)
        if size <= LARGEST:
            target.write_bytes(file.read())
            return digest
        start = file.read(SHOWN)
        file.seek(size - SHOWN)
        target.write_bytes(start + GAP + file.read(SHOWN))
    return digest
