"""Schemas in Hydra's store, each made when a composition asks for it (one reads a quarter)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf

from sdxl.config import guard, once, plugins, sizes
from sdxl.config.schema import GROUPS, Config, train
from sdxl.core.paths import ROOT


def register() -> None:
    """Put every schema into Hydra's config store, once; imports no torch, no mlflow."""
    guard.install()
    once.install()
    OmegaConf.register_new_resolver("sdxl_root", lambda: str(ROOT), replace=True)
    OmegaConf.register_new_resolver("sdxl_sizes", _sizes, replace=True)
    for group, name, schema in _schemas():
        place = ConfigStore.instance().repo
        for part in group.split("/"):
            place = place.setdefault(part, {})
        place.setdefault(f"{name}.yaml", _Late(f"{name}.yaml", group, schema))
    ConfigStore.__deepcopy__ = _itself  # type: ignore[attr-defined]


def _sizes(side: int) -> str:
    """A sweep over the sizes of a model."""
    return ",".join(sizes.around(side))


def _schemas() -> Iterator[tuple[str, str, Callable[[], type]]]:
    """(group, name, who says the dataclass)."""
    own: dict[str, dict[str, type]] = {
        "schema": {"config": Config, "train_config": train.TrainConfig}
    }
    groups = {f"schema/{group}": nodes for group, nodes in {**GROUPS, "train": train.NODES}.items()}
    for group, nodes in {**own, **groups}.items():
        for name in nodes:
            yield group, name, partial(nodes.__getitem__, name)
    for name in plugins.backend_names():
        yield "schema/backend", name, partial(_config_of, plugins.backend, name)
    for name in plugins.quality_names():
        yield "schema/quality", name, partial(_config_of, plugins.quality_option, name)


def _config_of(option: Callable[[str], Any], name: str) -> type:
    found: type = option(name).config
    return found


class _Late(ConfigNode):
    """A dataclass that becomes a node when it is loaded."""

    def __init__(self, name: str, group: str, schema: Callable[[], type]) -> None:
        super().__init__(name, DictConfig({}), group, package=None, provider=None)
        self._schema = schema

    @cached_property
    def _made(self) -> DictConfig:
        return OmegaConf.structured(self._schema())

    def __copy__(self) -> ConfigNode:
        """What `ConfigStore.load` copies deeply and hands out."""
        return ConfigNode(self.name, self._made, self.group, self.package, self.provider)


def _itself(store: ConfigStore, _memo: dict[int, Any]) -> ConfigStore:
    """Hydra would copy the whole store at each composition, and changes nothing of it."""
    return store
