"""Compositions of tests: Hydra once per process and choice of groups, values on top."""

from __future__ import annotations

import copy
import functools

from omegaconf import DictConfig

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
