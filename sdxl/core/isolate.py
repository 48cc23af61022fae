"""One child process per measurement, watched: whatever happens inside, the parent gets an answer.

LoadGen reads its rules once per process, aborts at exit after an exception and waits for ever for
a lost sample; CUDA contexts leak from cell to cell. A fresh process per cell ends all of that.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from sdxl.core import forking, locks, streams
from sdxl.core.errors import USER, Problem, SdxlError, UserError
from sdxl.core.paths import PACKAGE

LONGEST_TMPDIR = 70
LIMIT = "stall_limit_s"
"""Key of a report that sets how long the child may stay silent from then on."""


class WorkerDied(SdxlError):
    """The child ended without an answer."""


class WorkerStalled(SdxlError):
    """The child was silent for longer than it may be, and was killed."""


class WorkerFailed(SdxlError):
    """The child raised something that is no message of ours; `trace` is its traceback."""

    trace = ""


class Link:
    """The child's line to its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def report(self, message: dict[str, Any]) -> None:
        """Progress; any change in the dictionary counts as a sign of life."""
        self.post("report", message)

    def fail(self, error: BaseException) -> NoReturn:
        """Hand over the exception and leave at once, from whatever thread."""
        traceback.print_exception(error)
        self.post("error", pack(error))
        finish(1)

    def post(self, kind: str, message: Any) -> None:
        """Send one message."""
        with self._lock:
            self._connection.send((kind, message))


def run(
    work: Callable[..., Any],
    *args: Any,
    log: Path,
    limit_s: float,
    on_report: Callable[[dict[str, Any]], None],
    preload: Sequence[str] = forking.LIBRARIES,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
) -> Any:
    """Call `work(link, *args)` in a fresh process and return its result.

    Its environment is ours, with `env` on top.

    `preload`: start it from a server process that has imported these modules already (0.03 s a
    child in place of some 6 s); needs that CUDA was not touched there, and it is not. None: from
    a new process.
    Its output goes to `log`. Raises `WorkerDied`, `WorkerStalled`, `WorkerFailed`, or the
    `SdxlError` raised inside. Ctrl-C kills the child and propagates.
    """
    prepare()
    log.open("ab").close()  # raises `OSError` here: the child could not say why
    context = forking.method(preload)
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_child,
        args=(theirs, work, args, str(log), {**os.environ, **(env or {})}),
        name="sdxl-worker",
        daemon=False,
    )
    try:
        forking.begin(child, limit_s)
    except EOFError as error:
        raise WorkerDied(
            "the process that measurements are forked from could not begin",
            str(error),
            "libraries that load, and memory for them: some GB of address space (ulimit -v)",
            "python -m sdxl doctor",
        ) from error
    theirs.close()
    try:
        return _listen(ours, child, log, limit_s, on_report, timeout_s)
    finally:
        _kill(child)
        ours.close()


def prepare() -> None:
    """Before a process is started: what its interpreter has to find, and where sockets fit."""
    for noisy in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(noisy, "error")
    # The server process looks for what it preloads without our sys.path (python/cpython#117378),
    # and would take the code of an installed checkout in place of this one.
    code = str(PACKAGE.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if paths[0] != code:
        os.environ["PYTHONPATH"] = os.pathsep.join([code, *filter(None, paths)])
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        # joblib's name for its own way, which a child of ours would be told to use and not know.
        multiprocessing.set_start_method("spawn", force=True)
    _short_sockets()


def _short_sockets() -> None:
    """A place for sockets whose name fits: a path of theirs has 107 bytes at most."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) <= LONGEST_TMPDIR:
        return
    for place in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108  a private folder in it
        if os.access(place, os.W_OK | os.X_OK):
            tempfile.tempdir = place
            break
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def _listen(
    ours: Connection,
    child: Any,
    log: Path,
    limit_s: float,
    on_report: Callable[[dict[str, Any]], None],
    timeout_s: float | None,
) -> Any:
    last: dict[str, Any] = {}
    heard = began = time.monotonic()
    while True:
        left = heard + limit_s - time.monotonic()
        if timeout_s is not None and time.monotonic() - began >= timeout_s:
            raise WorkerStalled(
                f"the measurement took longer than {timeout_s:g} s; the worker was killed",
                f"last report: {last or 'none'}",
                "an end within `timeout_s`",
                f"timeout_s={timeout_s * 4:g}, or timeout_s=null",
            )
        if timeout_s is not None:
            left = min(left, began + timeout_s - time.monotonic())
        ready = wait([ours, child.sentinel], max(0.0, left))
        if ours in ready:
            try:
                kind, message = ours.recv()
            except (EOFError, OSError):  # OSError: it was killed in the middle of a message
                child.join(5)
                raise _death(child, log) from None
            if kind == "result":
                return message
            if kind == "error":
                raise rebuilt(message)
            limit_s = message.pop(LIMIT, limit_s)
            if message != last:
                last, heard = message, time.monotonic()
            on_report(message)
        elif child.sentinel in ready:
            child.join(5)
            raise _death(child, log)
        elif heard + limit_s <= time.monotonic():
            doing = last.get("phase", "starting")
            raise WorkerStalled(
                f"nothing happened for {limit_s:g} s while {doing}; the worker was killed",
                f"last report: {last or 'none'}",
                "progress, or a longer limit for slow machines",
                f"scenario.{'stall_s' if doing == 'measuring' else 'startup_s'}={limit_s * 4:g}",
            )


def _child(
    theirs: Connection,
    work: Callable[..., Any],
    args: tuple[Any, ...],
    log: str,
    env: dict[str, str],
) -> None:
    """In the child: own session and output, die with the parent, answer exactly once."""
    os.setsid()
    os.environ.clear()  # a server has that of when it was started
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    streams.guard()
    no_shared_locks()
    link = Link(theirs)
    locks.hear = link.report

    def follow_parent() -> None:
        try:
            theirs.recv()  # never comes: the end of file does, when the parent is gone
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow_parent, name="parent", daemon=True).start()
    try:
        link.post("result", work(link, *args))
    except BaseException as error:
        link.fail(error)
    finish(0)


def no_shared_locks() -> None:
    """In a child that may be killed: progress bars lock among threads only.

    tqdm's own lock among processes is a named semaphore, which outlives whoever leaves without
    exit handlers; multiprocessing then warns of a leak at the end of the command.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


before_leaving: list[Callable[[], None]] = []
"""What a child still does before it leaves, however it ends: give back what outlives it."""


def finish(code: int) -> NoReturn:
    """Leave without exit handlers: LoadGen's would abort after an unfinished test."""
    for action in before_leaving:
        action()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pack(error: BaseException) -> dict[str, Any]:
    """An exception in a form that the parent can rebuild without its class."""
    ours = isinstance(error, SdxlError)
    return {
        "problems": error.problems if isinstance(error, SdxlError) else [],
        "exit_code": error.exit_code if isinstance(error, SdxlError) else 1,
        "text": "" if ours else f"{type(error).__name__}: {error}",
        "trace": "".join(traceback.format_exception(error)),
    }


def rebuilt(message: dict[str, Any]) -> SdxlError:
    """What `pack` was given."""
    if not message["problems"]:
        failed = WorkerFailed(f"the worker failed: {message['text']}")
        failed.trace = message["trace"]
        return failed
    error = (UserError if message["exit_code"] == USER else SdxlError)("")
    error.problems = [Problem(**vars(p)) for p in message["problems"]]
    error.exit_code = message["exit_code"]
    return error


def _death(child: Any, log: Path) -> WorkerDied:
    code = child.exitcode
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = signal.Signals(-code).name
    hint = "more memory, or a smaller backend.batch_size" if how == "SIGKILL" else None
    return WorkerDied(f"the worker died: {how}", f"its output is in {log}", hint)


def _kill(child: Any) -> None:
    """End the child and whatever it started (compilers), then reap it."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
    child.join(10)
