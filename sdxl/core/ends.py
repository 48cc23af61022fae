"""Signals: whenever one comes, a command ends with its JSON line and its exit code.

Imports nothing but the standard library's lightest modules: it is the first thing a command loads.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FAILED, _USER = 1, 2
_came = False
_LINE = '{"status": "failed", "reason": "%s", "record": null, "exit_code": %d}\n'
_GONE = """--- error
the working directory was deleted
  expected a folder that is there
  fix      cd FOLDER
---
"""


def early() -> None:
    """Before the first import: a signal ends the process at once, with its line."""
    _take(_leave)
    try:
        os.getcwd()  # noqa: PTH109  pathlib takes longer to import
    except OSError:
        _write(2, _GONE)
        _last("the working directory was deleted", _USER)


def begun() -> None:
    """From now on a signal is a `KeyboardInterrupt`, which gives back what is held."""
    global _came
    _came = False
    _take(_interrupt)


def came() -> bool:
    """Whether one has come since: a library may have made another error of it on its way up."""
    return _came


def again() -> None:
    """One has come, and the command is ending: a second one ends the process at once."""
    _take(_leave)


def over() -> None:
    """The JSON line is out: nothing changes the end any more."""
    _take(signal.SIG_IGN)


def _take(action: Any) -> None:
    try:
        for each in SIGNALS:
            if signal.getsignal(each) != signal.SIG_IGN:  # nohup, or a job in the background
                signal.signal(each, action)
    except ValueError:  # not the main thread
        return


def _interrupt(*_: Any) -> NoReturn:
    global _came
    _came = True
    raise KeyboardInterrupt


def _leave(*_: Any) -> NoReturn:
    _write(2, "interrupted\n")
    _last("interrupted", _FAILED)


def _last(reason: str, code: int) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        _write(1, _LINE % (reason, code))
    os._exit(code)


def _write(number: int, text: str) -> None:
    try:
        stream = sys.stdout if number == 1 else sys.stderr
        if stream is not None:
            stream.flush()  # what was said before comes before
    except (OSError, ValueError, RuntimeError):  # RuntimeError: the signal came while it wrote
        pass
    try:
        os.write(number, text.encode())
    except OSError:
        return
