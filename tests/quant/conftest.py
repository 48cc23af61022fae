"""A tiny calibration shared by the quantization tests; every test's store is its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sdxl.config.schema import Config
from sdxl.quant import calibrate
from sdxl.quant import statistics as tables
from tests.composing import checked

FAST = ("model=tiny_random", "rules=open", "model.steps=4", "model.height=64", "model.width=64")
CALLS = 4

# The same examples in every run, however slow the machine is.
settings.register_profile("quant", deadline=None, derandomize=True)
settings.load_profile("quant")


def make(*overrides: str) -> Config:
    """A checked configuration of `quantize.py` on the random tiny model with four steps."""
    return checked("quantize", *FAST, *overrides)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def configure() -> Callable[..., Config]:
    return make


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory) -> Path:
    """A store whose calibration of four prompts many tests read."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def store_at(monkeypatch, tmp_path) -> Path:
    """An empty store of this test's own."""
    monkeypatch.setenv("SDXL_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def warm_store(monkeypatch, shared_store) -> Path:
    """The shared store, in use."""
    monkeypatch.setenv("SDXL_STORE", str(shared_store))
    return shared_store


@pytest.fixture(scope="session")
def config() -> Config:
    return make("quant=int8", f"calib_size={CALLS}")


@pytest.fixture(scope="session")
def statistics(config, shared_store) -> tables.Statistics:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(shared_store))
        return tables.load(calibrate.get(config).path / calibrate.FILE)


@pytest.fixture(scope="session")
def calibration(config) -> calibrate.Calibration:
    """The unquantized model and its loop; tests must not change its UNet."""
    return calibrate.Calibration(config, calibrate.calibration_prompts(config.quant))


@pytest.fixture
def fresh_unet(calibration) -> Callable[[], torch.nn.Module]:
    """Copies of the unquantized UNet."""
    import copy

    return lambda: copy.deepcopy(calibration.unet)


def with_quant(config: Config, **changes: object) -> Config:
    """The configuration with other quantization settings."""
    return dataclasses.replace(config, quant=dataclasses.replace(config.quant, **changes))
