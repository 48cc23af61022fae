"""When requests arrive: at random at a rate, or as a trace has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdxl.core.errors import UserError


def poisson(rate: float, duration_s: float, least: int, seed: int) -> list[float]:
    """Arrivals in seconds: exponential gaps, scaled so that the mean is the rate to the digit.

    The gaps of all rates are the same, only shorter: what differs between points is the rate.
    """
    count = max(least, round(rate * duration_s), 2)
    gaps = np.random.default_rng(seed).exponential(1.0, count)
    whole = np.cumsum(gaps)
    return [float(each) for each in whole * (count / rate / whole[-1])]


def read_trace(path: Path) -> list[float]:
    """Arrivals of a trace in seconds from its first; raises `UserError` naming a bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the trace cannot be read", f"{path}: {error}") from error
    found: list[float] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            due = float(line)
        except ValueError:
            due = float("nan")
        if not due >= (found[-1] if found else 0.0) or due == float("inf"):
            raise UserError(
                f"line {number} of the trace is no arrival",
                line,
                "seconds from the start, none before the line above it",
                f"scenario.trace={path}",
            )
        found.append(due)
    if len(found) < 2:
        raise UserError("the trace has no load", path, "two arrivals or more, one a line")
    return [due - found[0] for due in found]
