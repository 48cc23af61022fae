"""How a command ends: its outcome as one JSON line, its exit code, one panel for a mistake."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from sdxl.core.errors import FAILED, INVALID, OK, USER, SdxlError, UserError, one_line, show


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
    outcome: dict[str, Any] = {"status": "ok", "exit_code": OK}
    try:
        facts = work()
        if facts is None:
            return OK
        outcome |= facts
    except SdxlError as error:
        show(error)
        outcome = failed(one_line(error.problems), error.exit_code)
    except Exception as error:  # ours to fix: whoever reads the last line gets one
        traceback.print_exc()
        outcome = failed(f"{type(error).__name__}: {error}", FAILED)
    sys.stderr.flush()
    print(json.dumps(outcome, allow_nan=False, default=str), flush=True)
    return int(outcome["exit_code"])


def failed(reason: str, exit_code: int) -> dict[str, Any]:
    """The JSON line of a command that failed."""
    return {"status": "failed", "reason": reason, "exit_code": exit_code}


Outcome = dict[str, Any]
"""What a job reports: `status`, `exit_code`, `record`, key figures; printed as the JSON line."""


STATUSES = ("ok", "invalid", "failed", "timeout", "skipped", "planned")


def _failed(reason: str, exit_code: int) -> Outcome:
    return {"status": "failed", "reason": reason, "record": None, "exit_code": exit_code}


def _summary(outcomes: list[Outcome]) -> Outcome:
    """One object for a multirun: counts by status, the records, the worst exit code."""
    codes = {outcome["exit_code"] for outcome in outcomes}
    worst = next((code for code in (FAILED, USER, INVALID) if code in codes), OK)
    counts = Counter(outcome["status"] for outcome in outcomes)
    return {
        "status": {OK: "ok", INVALID: "invalid"}.get(worst, "failed"),
        "cells": len(outcomes),
        **{status: counts.get(status, 0) for status in STATUSES},
        "cached": sum("cached" in outcome for outcome in outcomes),
        "records": [outcome.get("record") for outcome in outcomes],
        "exit_code": worst,
    }
