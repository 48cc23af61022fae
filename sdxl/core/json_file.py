"""JSON files as whoever wrote them left them: whole, damaged, or something else altogether."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """What a file holds; `OSError` if it cannot be read, `ValueError` for all but JSON in UTF-8."""
    return parse(path.read_text("utf-8"))


def read_object(path: Path) -> dict[str, Any]:
    """`read` of a file whose outermost value must be an object, else `ValueError`."""
    found = read(path)
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}, expected an object")
    return found


def parse(text: str | bytes) -> Any:
    """What a text says; `ValueError` for anything but JSON of a sane depth."""
    try:
        return json.loads(text)
    except RecursionError as error:  # no ValueError, and only the depth is to blame
        raise ValueError("nested too deeply") from error
