"""Standard output and error of a command: no secret passes, and a dead one stops nothing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from sdxl.core.secrets import hide


class Stream:
    """A text stream through which no secret passes.

    Once its reader is gone or its disk is full, what is written to it is dropped: how a command
    ends is decided by what it did.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.dead = False

    def write(self, text: str) -> int:
        """As of any text stream."""
        self._try(lambda: self._stream.write(hide(text)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As of any text stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As of any text stream."""
        self._try(self._stream.flush)

    def _try(self, action: Any) -> None:
        if self.dead:
            return
        try:
            action()
        except (OSError, ValueError):  # ValueError: somebody closed it
            self.dead = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def fill() -> None:
    """Put the null device where a standard stream is closed: a file would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def guard() -> None:
    """Both streams of this process as `Stream`s, for good."""
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Both streams of this process as `Stream`s, until the end of the block."""
    fill()
    before = sys.stdout, sys.stderr
    ours = Stream(sys.stdout), Stream(sys.stderr)
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        for stream in ours:
            stream.flush()
            if stream.dead:
                _forget(stream)
        if ours[0].dead and not ours[1].dead:
            ours[1].write("warning: standard output could not be written\n")
        sys.stdout, sys.stderr = before


def _forget(stream: Stream) -> None:
    """Let what a dead stream still holds go to the null device: Python flushes it at the end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
