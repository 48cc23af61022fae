"""Words of a command line: how they are read, what is wrong with them, how a setting is typed."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from sdxl.config.content_key import plain
from sdxl.config.schema import GROUPS, Config
from sdxl.core import paths
from sdxl.core.errors import ConfigError, Problem, did_you_mean
from sdxl.core.paths import CONF

ADDED = ("experiment", "sweep", "latency", "rung", "preset", "candidate")
"""Groups that no command has by itself: `+experiment=x` adds one."""
_ONE = (*GROUPS, "backend", "train")
"""Groups of which a command has one option."""
_BARE = re.compile(r"[\w./:@%+*-][\w./:@%+*\- ]*", re.ASCII)


@dataclass(frozen=True)
class Words:
    """Hydra's own options, then everything that has a `=`, whatever the order was."""

    options: list[str]
    overrides: list[str]
    config_dir: str | None
    multirun: bool


def read(program: str, words: Sequence[str]) -> Words:
    """The words of a command; raises `ConfigError` for options that Hydra does not have.

    argparse alone takes no `key=value` after an option that follows another one.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            [Problem(message, expected="key=value, -m", fix=shlex.join([*line, "--help"]))]
        )

    line = paths.program(program)
    parser: argparse.ArgumentParser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    found = parser.parse_intermixed_args(list(words))
    overrides = list(found.overrides)
    options, left = [], list(overrides)
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            options.append(word)
    mode = any(word == "hydra.mode=MULTIRUN" for word in overrides)
    return Words(options, overrides, found.config_dir, found.multirun or mode)


def expand(override: str) -> Iterator[str]:
    """A sweep `key=1,2` as `key=1` and `key=2`; anything else as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        parsed = OverridesParser.create().parse_overrides([override])[0]
        if parsed.is_sweep_override() and not parsed.is_hydra_override():
            name = parsed.get_key_element()
            yield from (f"{name}={value}" for value in parsed.sweep_string_iterator())
            return
    except Exception:
        yield override  # not parseable: compose() will say why
        return
    yield override


def searched(config_dir: str | None) -> list[str]:
    """The word by which a composition finds what `--config-dir` adds."""
    if config_dir is None:
        return []
    place = Path(config_dir).absolute()
    if not place.is_dir():
        raise ConfigError([Problem("`--config-dir` is no folder", str(place))])
    return [f"hydra.searchpath=[{quoted(f'file://{place}')}]"]


def problems_of(program: str, words: Words) -> dict[str, list[Problem]]:
    """What is wrong with words, before Hydra reads them, by the word."""
    found = {word: list(_of_word(program, word, words)) for word in words.overrides}
    return {word: problems for word, problems in found.items() if problems}


def _of_word(program: str, word: str, words: Words) -> Iterator[Problem]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (override,) = OverridesParser.create().parse_overrides([word])
        key, value = override.key_or_group, override.value()
    except (HydraException, ValueError) as error:
        yield _unreadable(word, str(error).splitlines()[0])
        return
    if not key:
        yield _unreadable(word, "key=value")
        return
    swept = override.is_sweep_override()
    if swept and not words.multirun:
        yield Problem(
            f"`{word}` has several values, and without -m there is one run",
            expected="a sweep, or quotes around a text with commas",
            fix=f"{shlex.join([*paths.program(program), '-m', word])}   # or: {_quoted_word(word)}",
        )
    elif swept:
        return
    if key.endswith(".name") and key.partition(".")[0] in _ONE:
        group = key.removesuffix(".name")
        yield Problem(f"`{key}` is no setting", word, "an option", typed(group, value))
    elif key in _ONE and not (isinstance(value, str) or override.is_delete()):
        yield _no_option(key, "null" if value is None else str(value))
    elif key in ADDED and (CONF / key).is_dir():
        yield from _of_added(program, key, str(value), override.is_add(), words)


def _of_added(
    program: str, group: str, option: str, added: bool, words: Words
) -> Iterator[Problem]:
    """A group that has to be added, and the sweep that needs -m."""
    if not added:
        yield Problem(
            f"`{group}` is added with a +", f"{group}={option}", fix=f"+{typed(group, option)}"
        )
    elif group == "sweep" and not words.multirun:
        line = shlex.join([*paths.program(program), "-m", *words.overrides])
        yield Problem(f"`+sweep={option}` would be ignored without -m", "one run", "a sweep", line)


def _no_option(group: str, option: str) -> Problem:
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    close = did_you_mean(option, options)
    return Problem(
        f"`{group}` has no option `{option}`",
        expected="one of: " + " ".join(options),
        fix=f"{group}={close}" if close else None,
    )


def _unreadable(word: str, why: str) -> Problem:
    """A word that Hydra's grammar does not take, with the one that it does."""
    if "=" not in word.strip("="):
        return Problem(f"`{word}` cannot be read", expected="key=value")
    fix = _quoted_word(word) if _holds_text(word.partition("=")[0].lstrip("+")) else None
    return Problem(f"`{word}` cannot be read", expected=why, fix=fix)


def _holds_text(key: str) -> bool:
    """Whether quotes could help: not for a number or a choice, as far as the schema knows."""
    group, _, name = key.rpartition(".")
    nodes = [*GROUPS.get(group, {}).values()] if group else [Config]
    kinds = [str(field.type) for node in nodes for field in fields(node) if field.name == name]
    return not kinds or any("str" in kind for kind in kinds)


def _quoted_word(word: str) -> str:
    """The word with its value in quotes, of a list each item, for Hydra and for the shell."""
    key, _, value = word.partition("=")
    if value.startswith("[") and value.endswith("]"):
        items = [item.strip().strip("\"'") for item in _items(value[1:-1])]
        value = "[" + ",".join(map(quoted, items)) + "]"
    else:
        value = quoted(value)
    return shlex.quote(f"{key}={value}")


def _items(text: str) -> Iterator[str]:
    """Parts between commas that stand in no bracket."""
    depth, item = 0, ""
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            yield item
            item = ""
        else:
            item += letter
    yield item


def typed(key: str, value: Any) -> str:
    """`key=value` for the shell, quoted for Hydra too where it needs that."""
    return swept(key, [value])


def swept(key: str, values: Sequence[Any]) -> str:
    """`key=a,b`, the sweep over values, quoted like them."""
    return shlex.quote(f"{key}=" + ",".join(_spelled(plain(value)) for value in values))


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return str(value) if _BARE.fullmatch(str(value)) else quoted(str(value))


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes any."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'
