"""What can go wrong, said once: what, got, expected, and the line to type."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import dataclass

OK, FAILED, USER, INVALID = 0, 1, 2, 3
"""Exit codes of every command: done, a failure, the user's mistake, finished but INVALID."""


@dataclass
class Problem:
    """One thing that is wrong with what the user asked for."""

    what: str
    got: str | None = None
    expected: str | None = None
    fix: str | None = None

    def lines(self) -> list[str]:
        """The problem as text, one line per part that is known."""
        labelled = [("got", self.got), ("expected", self.expected), ("fix", self.fix)]
        return [self.what, *(f"  {label:<8} {text}" for label, text in labelled if text)]


class SdxlError(Exception):
    """A failure of this run that has a clear message; exit code 1."""

    exit_code = FAILED

    def __init__(
        self,
        what: str,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problems = [
            Problem(
                what,
                None if got is None else str(got),
                None if expected is None else str(expected),
                fix,
            )
        ]
        super().__init__(what)

    def __str__(self) -> str:
        return "\n".join(line for problem in self.problems for line in problem.lines())


class UserError(SdxlError, ValueError):
    """The user can fix this: a missing file, a wrong value; exit code 2."""

    exit_code = USER


class ConfigError(UserError):
    """Every problem found in a configuration, reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = list(problems)
        super().__init__(found[0].what)
        self.problems = found


class StageError(SdxlError):
    """A stage of the pipeline produced something that is not an image (NaN, Inf, constant)."""


def one_line(problems: Iterable[Problem]) -> str:
    """The problems as one sentence, for a record's `reason`."""
    parts = []
    for problem in problems:
        text = problem.what
        if problem.got:
            text += f" (got {problem.got})"
        parts.append(text)
    return "; ".join(parts)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, if any is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def show(error: SdxlError) -> None:
    """Print one panel on standard error; never a traceback."""
    from sdxl.core import terminal

    count = len(error.problems)
    title = "error" if error.exit_code == USER else "failed"
    if count > 1:
        title += f": {count} problems"
    body = "\n\n".join("\n".join(problem.lines()) for problem in error.problems)
    if sys.stderr.isatty():
        from rich.panel import Panel
        from rich.text import Text

        terminal.console(stderr=True).print(
            Panel(Text(body), title=title, title_align="left", expand=False)
        )
    else:  # a frame would break long paths in logs
        terminal.say(f"--- {title}\n{body}\n---")
