"""Compositions of tests: Hydra once per process and choice of groups, values on top."""

from __future__ import annotations

import copy
import functools

from omegaconf import DictConfig

from sdxl.config import schema
from sdxl.config.compose import Composer
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.config.schema import Config

register()
_composer = functools.cache(Composer)


def compose(name: str, *words: str) -> DictConfig:
    """The composition of a command's words, not yet checked; the caller's own."""
    return copy.deepcopy(_composer(name).composed(words))


def checked(name: str, *words: str) -> Config:
    """The checked configuration of a command's words."""
    return load(compose(name, *words))


def fit(words):
    """A cell's words without settings that its shortcut lacks, as a search leaves them out."""
    options = [word.partition("=")[2] for word in words if word.startswith("shortcut=")]
    known = schema.GROUPS["shortcut"][options[0]].__dataclass_fields__ if options else ()
    names = {f"shortcut.{name}" for name in known}
    keys = ((word, word.partition("=")[0]) for word in words)
    return [word for word, key in keys if not key.startswith("shortcut.") or key in names]
