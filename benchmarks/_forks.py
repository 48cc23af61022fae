"""A command in a fork of this process, which has imported what commands import.

A process of its own costs seconds of imports, a fork some milliseconds; what a command keeps in
memory, and how it ends, stays in the fork as it would in a process.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import IO, Any, NoReturn

from sdxl.core.paths import ROOT

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a fork has none of its threads
MODULES = (
    *("sdxl.core.preload", "hydra", "sdxl.cli", "sdxl.config.load", "sdxl.run.cell"),
    *("sdxl.quant.command", "sdxl.run.export", "sdxl.training.command", "sdxl.run.plan"),
    *("sdxl.report.command", "sdxl.report.gate", "sdxl.run.doctor.command"),
)
LATE = 124
"""Exit code of a command that was ended because it took too long, as `timeout` has it."""


def preload() -> None:
    """Import what commands import; raises `AssertionError` if a library began a thread."""
    with warnings.catch_warnings(action="ignore"):
        for name in MODULES:
            importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would wait for a thread that it does not have"


def run(words: Sequence[str], limit_s: float) -> tuple[int, str, str]:
    """`python -m sdxl WORDS`: its exit code (`LATE`, minus a signal's number), what it said.

    limit_s: processor seconds, or four times as many by the clock.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become(words, out, err)
        code = _ended(pid, limit_s)
        return code, _text(out), _text(err)


def _ended(pid: int, limit_s: float) -> int:
    end = time.monotonic() + 4 * limit_s
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            late = used.ru_utime + used.ru_stime > limit_s
            return LATE if late else os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # it had no group of its own yet
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return LATE
        time.sleep(0.01)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _become(words: Sequence[str], out: IO[bytes], err: IO[bytes]) -> NoReturn:
    """In the fork: the command, ended as the interpreter ends one."""
    code: Any = 0
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", 1, errors="backslashreplace")  # noqa: SIM115
        sys.argv, sys.path[0] = ["sdxl", *words], str(ROOT)
        tempfile.tempdir = None
        server: Any = forkserver._forkserver  # type: ignore[attr-defined]
        server._forkserver_pid = None  # a value's, which is no child of this fork
        runpy.run_path(str(Path(ROOT, "sdxl", "__main__.py")), run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
