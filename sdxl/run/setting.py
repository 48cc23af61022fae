"""The setting of a measured cell, used again: which record is meant, and its configuration."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from sdxl.config import shorthand
from sdxl.config.compose import Composer
from sdxl.config.explain import explain
from sdxl.config.registry import register
from sdxl.config.schema import Config
from sdxl.config.words import read
from sdxl.core import records
from sdxl.core.errors import UserError
from sdxl.report import cells, choose
from sdxl.run.command_line import alone

MEASURING = {
    "compliance", "cost", "dataset", "fail_fast", "find_peak", "foreign", "hydra", "limit", "mode",
    "plan", "profile", "prompt", "prompts", "quality", "repeat", "rerun", "scenario", "submission",
    "sweep", "timeout_s", "tracking",
}  # fmt: skip
"""Groups and keys that say how a cell was measured, not what drew its pictures."""


def record_of(word: str) -> Path:
    """A record by its path, or that of its folder; `last`: the newest; `best`: the newest answer.

    Raises `UserError` where there is none, or where several groups of cells have an answer each.
    """
    if word == "last":
        measured = [cell for cell in cells.load([]).cells if cell.measured]
        if measured:
            return max(measured, key=lambda cell: cell.record.started).path
        raise _none("last", "a measurement that finished")
    if word == "best":
        groups = cells.load([]).groups.values()
        found = [best for group in groups if (best := choose.answer(group, choose.Limits()).best)]
        if len(found) == 1:
            return found[0].path
        if found:
            paths = "\n".join(str(cell.path) for cell in found)
            raise UserError(
                "the newest sweep has several answers, one for each kind of work", paths,
                "one of these records", f"--record {found[0].path}",
            )  # fmt: skip
        raise _none("best", "a sweep whose report names a cell to ship")
    path = Path(word).expanduser()
    path = path / "record.json" if path.is_dir() else path
    if not path.is_file():
        raise _none(word, "a record.json, its folder, `last` or `best`")
    return path


def words_of(record: Path) -> list[str]:
    """The words of the command that made a record, but those that are about measuring.

    With `--config-dir=FOLDER` where it took one.
    """
    typed = alone(shlex.split(records.read(record).command))
    return [word for word in typed if "=" in word and not about_measuring(word)]


def about_measuring(word: str) -> bool:
    """Whether a word of a command sets how, not what, it draws."""
    name = word.lstrip("+~").partition("=")[0].partition("@")[0]
    return name.partition(".")[0].partition("/")[0] in MEASURING


def compose(record: str | None, words: Sequence[str]) -> Config:
    """The configuration of a record, or the default one, with further words of a command.

    Raises `ConfigError` for words that `python run.py` would refuse.
    """
    known = words_of(record_of(record)) if record else []
    line = [*known, *shorthand.quoted(words)]
    register()
    try:
        given = read("run", line)
        return Composer("run", given.config_dir).config(given.overrides)
    except Exception as error:
        raise explain(error, "run", line) from error


def _none(word: str, expected: str) -> UserError:
    return UserError("there is no such record", word, expected, "python run.py")
