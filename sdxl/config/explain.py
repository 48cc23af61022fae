"""What is wrong with the words of a command line: Hydra's failures as our own problems."""

from __future__ import annotations

import contextlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sdxl.config.compose import Composer
from sdxl.config.load import load, unknown_key
from sdxl.config.schema import GROUPS
from sdxl.config.words import ADDED, Words, expand, problems_of, read
from sdxl.core import terminal
from sdxl.core.errors import ConfigError, Problem, SdxlError, UserError, did_you_mean


def explain(
    error: Exception, name: str | None = None, words: Sequence[str] | None = None
) -> SdxlError:
    """A Hydra failure as our own: every bad override is found and named, not only the first.

    name and words: of the command; by default this process's own.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, SdxlError):
        return error
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return UserError(
            f"the output folder cannot be written: {error.strerror}",
            error.filename,
            "a writable folder",
            "hydra.run.dir=FOLDER (one run) or hydra.sweep.dir=FOLDER (multirun)",
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        program = name or Path(sys.argv[0]).stem
        given = read(program, sys.argv[1:] if words is None else words)
        problems = problems_in(program, given.overrides, given.config_dir)
        return ConfigError(problems or [Problem(str(error).strip())])
    if isinstance(error, ValueError | AssertionError) and _of_hydra(error):
        return UserError(
            f"Hydra cannot answer that: {error}", shlex.join(sys.argv[1:]), "options that agree",
            f"python {Path(sys.argv[0]).stem}.py --hydra-help",
        )  # fmt: skip
    terminal.say(traceback.format_exc().rstrip())
    return SdxlError(f"{type(error).__name__}: {error}")


def _of_hydra(error: Exception) -> bool:
    """Whether Hydra's own front door raised it: options that do not go together."""
    place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    doors = {("hydra", "_internal", "hydra.py"), ("hydra", "_internal", "utils.py")}
    return place.parts[-3:] in doors or place.parts[-2:] == ("hydra", "main.py")


def check(program: str, given: Words) -> None:
    """Raise `ConfigError` if a word is wrong before Hydra reads it, with all others' problems."""
    if bad := problems_of(program, given):
        others = [word for word in given.overrides if word not in bad]
        found = [problem for problems in bad.values() for problem in problems]
        raise ConfigError([*found, *problems_in(program, others, given.config_dir)])


def problems_in(
    config_name: str, overrides: list[str], config_dir: str | None = None
) -> list[Problem]:
    """Compose with each override alone, and name those that fail.

    Group choices come first, since a value may exist only under one choice; then all good ones
    together, so that broken rules are reported beside unknown keys.
    """
    problems: list[Problem] = []
    good: list[str] = []
    try:
        compose = Composer(config_name, config_dir).composed
    except ConfigError as error:  # of the folder, which takes every other word's options away
        return error.problems
    expanded = [each for override in overrides for each in expand(override)]
    for override in sorted(expanded, key=lambda each: not _is_group(each)):
        try:
            compose([*good, override])
        except Exception as error:
            problems.append(_problem(error, override, compose(good)))
        else:
            good.append(override)
    with contextlib.suppress(Exception):
        try:
            load(compose(good), good)
        except ConfigError as error:
            problems += error.problems
    return problems


def _is_group(override: str) -> bool:
    name = override.split("=")[0].lstrip("+~")
    return name in (*GROUPS, *ADDED, "backend", "train")


def _problem(error: Exception, override: str, cfg: DictConfig) -> Problem:
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ValidationError

    name, _, value = override.partition("=")
    name = name.lstrip("+~")
    cause = error.__cause__ or error
    if isinstance(error, OverrideParseException):
        return Problem(f"`{override}` cannot be read", expected=str(error.message).split("\n")[0])
    if isinstance(error, MissingConfigException):
        options = list(error.options or [])
        same = next((o for o in options if o.lower() == value.lower()), None)
        close = same or did_you_mean(value, options)
        sign = "+" if name in ADDED else ""
        return Problem(
            f"`{name}` has no option `{value}`",
            expected="one of: " + " ".join(options),
            fix=f"{sign}{name}={close}" if close else None,
        )
    if isinstance(cause, ValidationError):
        said = str(cause).split("\n")[0]
        for mark in ("could not be converted to ", "expected "):
            said = said.rpartition(mark)[2]
        return Problem(f"`{name}` has the wrong type", value, said)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) or "not in struct" in str(error):
        known = _leaves(OmegaConf.to_container(cfg), "")
        return unknown_key(name, known)
    return Problem(f"`{override}`: {str(error).splitlines()[0]}")


def _leaves(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}{key}.")]
