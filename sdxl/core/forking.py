"""The server process that measurements are forked from: started in limited time, or ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver
from typing import Any

PRELOADED = ["sdxl.core.preload"]


def context(preload: bool) -> Any:
    """multiprocessing's context: forks of a server that has imported the libraries, or new ones."""
    found: Any = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        found.set_forkserver_preload(PRELOADED)
    return found


def begin(process: Any, limit_s: float) -> None:
    """Start a process of `context`; raises `EOFError` where the server dies or takes too long.

    multiprocessing waits for its server for ever, which may never have imported its libraries: a
    disk that does not answer, OpenBLAS without memory.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        if pid := forkserver._forkserver._forkserver_pid:  # type: ignore[attr-defined]
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        process.start()
    except (EOFError, ConnectionError) as error:
        raise EOFError(f"silent for {limit_s:g} s" if late.is_set() else "it died") from error
    finally:
        timer.cancel()
