"""How a command ends: its outcome as one JSON line, its exit code, one panel for a mistake."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from sdxl.core import ends, streams, terminal
from sdxl.core.errors import FAILED, INVALID, OK, USER, SdxlError, UserError, one_line, show
from sdxl.core.secrets import hidden, hide

NOT_STARTED = "not_started"
"""A multirun's cell that Ctrl-C or a failure of the launcher came before."""
STATUSES = ("ok", "invalid", "failed", "timeout", "skipped", "planned", NOT_STARTED)


@dataclass
class Outcome:
    """How a job ended.

    figures: further fields of its JSON line; cached: which earlier measurement it is; tracked:
    `mlflow_run`, where MLflow was asked.
    """

    status: str = "ok"
    exit_code: int = OK
    reason: str | None = None
    record: str | None = None
    command: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    cached: str | None = None
    tracked: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def failed(cls, reason: str, exit_code: int) -> Self:
        """A failure that left no record."""
        return cls("failed", exit_code, reason)

    def line(self, record: bool = True) -> dict[str, Any]:
        """Its JSON line: of a measurement or a failure with the reason, of what is made without.

        record: name the record; small commands have none.
        """
        path = {"record": self.record} if record else {}
        if self.reason is None and self.command is None:
            return {"status": self.status, "exit_code": self.exit_code, **path, **self.figures}
        return {
            "status": self.status,
            "reason": self.reason,
            **path,
            **self.figures,
            **({"command": self.command} if self.command else {}),
            "exit_code": self.exit_code,
            **self.tracked,
            **({"cached": self.cached} if self.cached else {}),
        }


class Parser(argparse.ArgumentParser):
    """The words of a small command; a mistake among them is shown like any other."""

    def error(self, message: str) -> NoReturn:
        """Raise in place of printing and leaving."""
        usage = " ".join(self.format_usage().removeprefix("usage:").split())
        raise UserError(message, expected=usage)


def ended(work: Callable[[], dict[str, Any] | None]) -> int:
    """Do a small command's work and end it as every command ends; returns the exit code.

    Its facts, or what went wrong, become the JSON line on standard output; None prints no line.
    """
    ends.begun()
    with streams.guarded():
        try:
            facts = work()
            if facts is None:
                return OK
            line = {**Outcome().line(record=False), **facts}
        except (Exception, KeyboardInterrupt) as error:
            line = _failure(error).line(record=False)
        print_line(line)
        return int(line["exit_code"])


def _failure(error: Exception | KeyboardInterrupt) -> Outcome:
    if isinstance(error, SdxlError) and isinstance(error.__context__, KeyboardInterrupt):
        return shown(error)  # what the interruption means there
    if ends.came() or isinstance(error, KeyboardInterrupt):
        terminal.say("interrupted")
        return Outcome.failed("interrupted", FAILED)
    return shown(error)


def shown(error: Exception) -> Outcome:
    """An error as an outcome, shown: one of ours in a panel, any other with its traceback."""
    if isinstance(error, SdxlError):
        show(error)
        return Outcome.failed(one_line(error.problems), error.exit_code)
    terminal.say("".join(traceback.format_exception(error)).rstrip())
    return Outcome.failed(hide(f"{type(error).__name__}: {error}"), FAILED)


def print_line(line: Mapping[str, object]) -> None:
    """Print the JSON line, after everything that went to standard error."""
    sys.stderr.flush()
    print(json.dumps(hidden(line), allow_nan=False, default=str), flush=True)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The JSON line of a multirun: counts by status, the records, the worst exit code."""
    codes = {outcome.exit_code for outcome in outcomes}
    worst = next((code for code in (FAILED, USER, INVALID) if code in codes), OK)
    counts = Counter(outcome.status for outcome in outcomes)
    return {
        "status": {OK: "ok", INVALID: "invalid"}.get(worst, "failed"),
        "cells": len(outcomes),
        **{status: counts[status] for status in STATUSES},
        "cached": sum(outcome.cached is not None for outcome in outcomes),
        "records": [outcome.record for outcome in outcomes],
        "exit_code": worst,
    }
