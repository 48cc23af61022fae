"""What a compiler or a device said, short enough for a table."""

from __future__ import annotations

MOST = 200


def short(error: BaseException) -> str:
    """An exception on one line: its kind, and the end of its text, where compilers say why.

    A Triton compiler's error shows the line of the kernel, and the error behind it the reason.
    """
    kind, behind = type(error).__name__, error
    while behind.__cause__ is not None:
        behind = behind.__cause__
    text = " ".join(str(behind).split())
    return f"{kind}: {text if len(text) <= MOST else '...' + text[3 - MOST :]}"
