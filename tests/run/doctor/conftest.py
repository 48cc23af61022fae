"""A configuration as a doctor meets it."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sdxl.config.load import load, register
from sdxl.config.schema import Config
from sdxl.core.paths import ROOT

register()


def configure(*overrides: str) -> Config:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("run", overrides=list(overrides)))
