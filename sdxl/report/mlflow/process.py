"""MLflow in a process of its own, killed at a deadline: it may wait for a server for hours.

The helper is started at the first question, keeps MLflow imported, and ends with the command.
Questions and answers are lines of JSON.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from sdxl.core.errors import Problem, SdxlError
from sdxl.core.paths import PACKAGE

START_S = 120.0
"""Seconds that importing MLflow may take on a slow disk."""
PAUSE_S = 600.0
"""Seconds for which an address that missed a deadline is not asked again."""
MODULE = "sdxl.report.mlflow.jobs"


class NoAnswer(SdxlError):
    """The deadline passed, or the helper died."""


class Refused(SdxlError):
    """MLflow answered with an error; `code` is MLflow's own word for it."""

    code = ""


class _Helper:
    """The process, and its end of the line."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the command, which ends it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._started, self._left = False, b""

    def ask(self, question: Mapping[str, Any], timeout_s: float) -> Any:
        """The answer's value; raises `NoAnswer` or `Refused`."""
        if not self._started:
            self._hear(START_S)
            self._started = True
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise NoAnswer("MLflow's process ended") from error
        answer = self._hear(timeout_s)
        if "problem" in answer:
            refused = Refused("")
            refused.problems, refused.code = [Problem(**answer["problem"])], answer["code"]
            raise refused
        return answer["value"]

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        """One line from the helper."""
        assert self._process.stdout
        until = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._left:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise NoAnswer(f"no answer within {timeout_s:g} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise NoAnswer("MLflow's process ended")
                self._left += piece
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def ended(self) -> bool:
        """Whether somebody killed it while nobody asked."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill it, whatever it waits for."""
        self._process.kill()
        for pipe in filter(None, (self._process.stdin, self._process.stdout)):
            with contextlib.suppress(OSError):  # what was not read in time
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # it hangs in a dead network disk
            return


_helpers: list[_Helper] = []
_missed: dict[str, float] = {}  # address -> until when it is not asked


def ask(job: str, uri: str, timeout_s: float, **words: Any) -> Any:
    """What the helper's `job(uri=..., **words)` returns.

    Raises `NoAnswer` after `timeout_s` at the latest, or at once where the address missed a
    deadline not long ago; `Refused` with what MLflow said.
    """
    if time.monotonic() < _missed.get(uri, 0.0):
        raise NoAnswer("it did not answer before, and is not asked again for a while")
    environment = {name: v for name, v in os.environ.items() if _matters(name)}
    if _helpers and (_helpers[0].environment != environment or _helpers[0].ended):
        stop()
    try:
        if not _helpers:
            _helpers.append(_Helper(environment))
        return _helpers[0].ask({"job": job, "words": {"uri": uri, **words}}, timeout_s)
    except Refused:
        raise
    except OSError as error:  # no process could be started
        raise NoAnswer(f"MLflow's process cannot be started: {error}") from error
    except NoAnswer:
        _missed[uri] = time.monotonic() + PAUSE_S
        stop()
        raise
    except BaseException:  # Ctrl-C in the middle of an answer
        stop()
        raise


def stop() -> None:
    """End the helper, if there is one."""
    while _helpers:
        _helpers.pop().end()


atexit.register(stop)


def _matters(name: str) -> bool:
    return name.startswith("MLFLOW_") or name.lower().endswith("_proxy")


def serve(jobs: Mapping[str, Callable[..., Any]], said: Callable[[Exception], Problem]) -> NoReturn:
    """The helper's side: answer until the parent is gone; `said` puts an error into words."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    questions: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_hear_parent, args=(questions,), daemon=True).start()
    answer: dict[str, Any] = {"value": "ready"}
    while True:
        print(json.dumps(answer), file=answers, flush=True)
        question = questions.get()
        try:
            answer = {"value": jobs[question["job"]](**question["words"])}
        except Exception as error:  # many kinds: MLflow's, its libraries', pictures'
            problem = vars(said(error))
            answer = {"problem": problem, "code": str(getattr(error, "error_code", ""))}


def _hear_parent(questions: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        questions.put(json.loads(line))
    os._exit(0)  # the parent is gone
