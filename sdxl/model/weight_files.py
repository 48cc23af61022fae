"""Is a file of weights whole?"""

from __future__ import annotations

import json
from pathlib import Path

from sdxl.core.errors import UserError


def check_safetensors(file: Path, fix: str) -> None:
    """Raise `UserError`, with the line `fix`, for a damaged file, or one of another length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            return
    except (SafetensorError, OSError) as error:
        size, wanted = file.stat().st_size, _whole_size(file)
        raise UserError(
            f"{file} is truncated or not safetensors: {error}",
            f"{size:,} bytes",
            f"{wanted:,} bytes" if wanted else "a whole safetensors file",
            fix,
        ) from error


def _whole_size(file: Path) -> int | None:
    """Bytes that the file should have by its own header; None if that cannot be read."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        tensors = (entry for name, entry in header.items() if name != "__metadata__")
        return 8 + length + max(entry["data_offsets"][1] for entry in tensors)
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
