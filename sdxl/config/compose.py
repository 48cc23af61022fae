"""Compositions of many cells, fast: Hydra once per choice of groups, then the values on top."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from sdxl.config.load import load
from sdxl.config.schema import Config
from sdxl.config.words import searched
from sdxl.core.errors import ConfigError
from sdxl.core.paths import CONF


class Composer:
    """Words of a command -> its configuration, as Hydra composes it.

    Hydra takes some 0.2 s a composition. Cells of a sweep mostly differ in values, which Hydra
    itself applies last, so what lies below them is kept.
    """

    def __init__(self, config_name: str, config_dir: str | None = None) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._name, self._more = config_name, searched(config_dir)
        self._parse = OverridesParser.create().parse_overrides
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._loaded: dict[tuple[str, ...], Config | ConfigError] = {}

    def hydra(self, words: Sequence[str]) -> Any:
        """Hydra's own node."""
        return self._compose(words, return_hydra_config=True).hydra

    def composed(self, words: Sequence[str]) -> DictConfig:
        """The composition, not yet checked; raises what Hydra raises."""
        values = [word for word in words if _is_value(word)]
        rest = tuple(word for word in words if word not in values)
        base = self._bases.get(rest)
        if base is None:
            base = self._bases[rest] = self._compose(rest)
        if not values:
            return base
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        found = copy.deepcopy(base)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(self._parse(values), found)
        except Exception:
            return self._compose(words)  # the error, in Hydra's words
        return found

    def config(self, words: Sequence[str]) -> Config:
        """The checked configuration; raises `ConfigError`."""
        name = tuple(words)
        if name not in self._loaded:
            try:
                self._loaded[name] = load(self.composed(words), words)
            except ConfigError as error:
                self._loaded[name] = error
        found = self._loaded[name]
        if isinstance(found, ConfigError):
            raise found
        return found

    def _compose(self, words: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        running = GlobalHydra.instance().hydra  # a search composes while Hydra runs the sweep
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return compose(
                    self._name, [*self._more, *words], return_hydra_config=return_hydra_config
                )
        finally:
            GlobalHydra.instance().clear()
            GlobalHydra.instance().hydra = running


def _is_value(word: str) -> bool:
    """Whether Hydra would apply the word last: `key=value` that chooses no option."""
    name = word.partition("=")[0]
    group = (CONF / name).is_dir()
    return (
        name[:1].isalpha()
        and "/" not in name
        and "@" not in name
        and not (group or name.startswith("hydra."))
    )
