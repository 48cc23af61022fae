"""What a compiler or a device said, short enough for a table."""

from __future__ import annotations

MOST = 200


def short(error: BaseException) -> str:
    """An exception on one line: its kind, and the end of its text, where compilers say why."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= MOST else '...' + text[3 - MOST :]}"
