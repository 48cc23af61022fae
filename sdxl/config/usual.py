"""What a group's settings are where nobody changes them: the values of the chosen option's file."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sdxl.core.paths import CONF


def changed(group: str, node: Any) -> dict[str, Any]:
    """The settings of a group that differ from its option's own, by name, with what is usual.

    Empty for an option that is not among ours: nobody knows what it says.
    """
    usual = _usual(group, node.name, node.__class__)
    if usual is None:
        return {}
    names = (field.name for field in dataclasses.fields(node))
    return {name: usual[name] for name in names if getattr(node, name) != usual[name]}


@cache
def _usual(group: str, option: str, node: Any) -> dict[str, Any] | None:
    if option not in {file.stem for file in (CONF / group).glob("*.yaml")}:
        return None
    read = OmegaConf.merge(OmegaConf.structured(node), *_files(group, option))
    found: Any = OmegaConf.to_object(read)
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}


def _files(group: str, option: str) -> list[DictConfig]:
    """The option's file after those that it builds on."""
    read: Any = OmegaConf.load(CONF / group / f"{option}.yaml")
    on = [str(each) for each in read.pop("defaults", []) if not str(each).startswith(("/", "_"))]
    return [*(file for each in on for file in _files(group, each)), read]
