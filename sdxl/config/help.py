"""What `--help` prints: every group, every setting with its default, its values and its meaning.

A setting's meaning is the comment beside its field in the schema.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sdxl.config.schema import GROUPS, QUANT_KEYS
from sdxl.config.words import expand
from sdxl.core.paths import CONF

COLUMN, WIDTH = 40, 110
"""Where meanings begin, and where lines end."""
_FIELD = re.compile(r"^    (\w+): [^#\n]*?(?:  # (.*))?$", re.MULTILINE)


def text(name: str, words: list[str]) -> str:
    """The help of a command, as `words` compose it; of values to sweep over, the first is shown.

    Hydra's own takes seconds: it composes every option of every group.
    """
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        first = [next(expand(word)) for word in words if not word.startswith("-")]
        settings = compose(name, overrides=first)
    told: Any = OmegaConf.load(CONF / "hydra" / "help" / f"{name}.yaml")
    parts = [
        told.header,
        "Groups (group=option):",
        *_groups(name),
        "",
        "Settings (name=value), with their defaults:",
        *_settings(settings),
        "",
        told.footer.rstrip(),
    ]
    return "\n".join(parts)


def _groups(name: str) -> Iterator[str]:
    last = ["train"] if name == "train" else ["experiment", "sweep", "preset"]
    for group in (*GROUPS, "backend", *last):
        options = ", ".join(sorted(file.stem for file in (CONF / group).glob("*.yaml")))
        yield f"  {'+' if group in ('experiment', 'sweep', 'preset') else ''}{group}: {options}"


def _settings(cfg: DictConfig) -> Iterator[str]:
    if _unquantized(cfg):
        cfg.quant.format = "none"
    for prefix, node in _nodes(cfg, ""):
        node_type: Any = OmegaConf.get_type(node)
        told = meanings(node_type)
        hints = typing.get_type_hints(node_type)
        if prefix:
            yield ""
        for key in map(str, node):
            if not isinstance(node._get_node(key), DictConfig):
                value, meaning = _value(node, key), told.get(key, "")
                yield from _line(f"{prefix}{key}", value, hints[key], meaning)


def _unquantized(cfg: DictConfig) -> bool:
    """Whether `quant=auto` stands, and no key that would make it INT8."""
    return cfg.quant.name == "auto" and all(cfg.get(key) is None for key in QUANT_KEYS)


def _nodes(cfg: DictConfig, prefix: str) -> Iterator[tuple[str, DictConfig]]:
    """The keys at the top first, then group by group."""
    yield prefix, cfg
    for key in map(str, cfg):
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(child)):
            yield from _nodes(child, f"{prefix}{key}.")


def _value(node: DictConfig, key: str) -> str:
    if OmegaConf.is_missing(node, key):
        return "???"
    value = node[key]
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"'{value}'" if isinstance(value, str) and not value.strip() else str(value)


def _line(name: str, value: str, hint: Any, meaning: str) -> Iterator[str]:
    """`name=default` and, beside or beneath it, what it means and what it takes."""
    head = f"  {name}={value}"
    said = f"{meaning} [{_takes(hint)}]" if meaning else f"[{_takes(hint)}]"
    lines = textwrap.wrap(said, WIDTH - COLUMN)
    if len(head) < COLUMN - 1:
        yield f"{head:<{COLUMN}}{lines.pop(0)}"
    else:
        yield head
    yield from (" " * COLUMN + line for line in lines)


def _takes(hint: Any) -> str:
    """A type in words: `true|false`, an enum's values, `number or null`."""
    inner = [each for each in typing.get_args(hint) if each is not types.NoneType]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return f"{_takes(inner[0])} or null"
    if typing.get_origin(hint) is list:
        return f"list of {_takes(inner[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "|".join(str(member.value) for member in hint)
    words = {bool: "true|false", int: "integer", float: "number", Any: "text, list or null"}
    return words.get(hint, "text")


def meanings(node: type) -> dict[str, str]:
    """What each field of a schema node means: its comment, or that of the class it comes from."""
    found: dict[str, str] = {}
    for parent in reversed(node.__mro__):
        if dataclasses.is_dataclass(parent):
            body = _classes(sys.modules[parent.__module__].__file__ or "")[parent.__name__]
            found |= {name: said for name, said in _FIELD.findall(body) if said}
    return found


@functools.cache
def _classes(file: str) -> dict[str, str]:
    """The text of each class in a file; `inspect` parses the whole file for each."""
    parts = re.split(r"^class (\w+)", Path(file).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
