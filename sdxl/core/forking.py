"""The server process that measurements are forked from: started in limited time, or ended.

A child is given its work by name and imports that; the command's own file, which multiprocessing
would run again in each, stays out of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection, context, forkserver, popen_forkserver, spawn
from typing import Any

LIBRARIES = ("sdxl.core.preload",)
"""torch, diffusers and transformers."""
_server: Any = forkserver._forkserver
_starting = threading.Lock()


def method(preload: Sequence[str]) -> Any:
    """multiprocessing's context: forks of a server that has imported these modules.

    Without modules: processes that have imported nothing. A server that lacks one makes way for
    another, and ends with the last of its processes.
    """
    if not preload:
        return multiprocessing.get_context("spawn")
    with _starting:
        if not set(preload) <= set(_server._preload_modules):
            if _server._forkserver_pid:
                _leave()
            forkserver.set_forkserver_preload(list(preload))
    return _Context()


def _leave() -> None:
    """Let the server end: it does when nobody holds its line, neither we nor its processes."""
    os.close(_server._forkserver_alive_fd)
    with contextlib.suppress(OSError):
        os.unlink(_server._forkserver_address)  # noqa: PTH108
    _server._forkserver_pid = _server._forkserver_alive_fd = _server._forkserver_address = None


class _Popen(popen_forkserver.Popen):
    """The server tells once how a process ended, and every thread that starts one asks of all."""

    _asking = threading.Lock()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if flag != os.WNOHANG:
            connection.wait([self.sentinel])
        with self._asking:
            return super().poll()


class _Process(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:  # noqa: N802
        return _Popen(process_obj)


class _Context(context.ForkServerContext):
    Process = _Process


def begin(process: Any, limit_s: float) -> None:
    """Start a process of `method`; raises `EOFError` where the server dies or takes too long.

    multiprocessing waits for its server for ever, which may never have imported its libraries: a
    disk that does not answer, OpenBLAS without memory.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        if pid := _server._forkserver_pid:
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        with _starting, _without_main():
            process.start()
    except (EOFError, ConnectionError) as error:
        raise EOFError(f"silent for {limit_s:g} s" if late.is_set() else "it died") from error
    finally:
        timer.cancel()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start meanwhile are not told which file this command is."""
    preparing = spawn.get_preparation_data

    def prepare(name: str) -> dict[str, Any]:
        found = preparing(name)
        return {key: value for key, value in found.items() if not key.startswith("init_main")}

    spawn.get_preparation_data = prepare
    try:
        yield
    finally:
        spawn.get_preparation_data = preparing
