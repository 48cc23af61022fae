"""Folders and files made from the bundled model, as people have theirs."""

import json
import shutil

import pytest
import torch

from sdxl.config import schema
from sdxl.core.paths import BUNDLED
from sdxl.model import single_file
from sdxl.model.weights import WeightSource
from tests.model import folders
from tests.model.folders import SDE, TURBO


def settings(path, **options):
    """The settings of a model at a path, at the bundled model's size."""
    return schema.SdxlModel(
        "sdxl", path=str(path), height=128, width=128, negative_prompt="", **options
    )


@pytest.fixture
def miniature(tmp_path):
    """The bundled model as an ordinary SDXL folder, to be changed."""
    return shutil.copytree(BUNDLED, tmp_path / "miniature", ignore=shutil.ignore_patterns("judge"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The bundled model as a single file in the original layout."""
    file = tmp_path_factory.mktemp("single") / "miniature.safetensors"
    single_file.write(WeightSource(settings(BUNDLED)), file, torch.float32)
    return file


def edit(path, **changes):
    """Change a JSON file; `...` removes a key."""
    found = json.loads(path.read_text())
    for key, value in changes.items():
        found.pop(key, None) if value is ... else found.update({key: value})
    path.write_text(json.dumps(found))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders by what their scheduler says; an LCM UNet; zeros for no prompt."""
    base = tmp_path_factory.mktemp("folders")
    return {
        "epsilon": folders.folder(base / "epsilon"),
        "v_prediction": folders.folder(base / "v", {"prediction_type": "v_prediction"}),
        "turbo": folders.folder(base / "turbo", TURBO),
        "sde": folders.folder(base / "sde", SDE),
        "lcm": folders.lcm(base / "lcm"),
        "zeros": folders.folder(base / "zeros", index={"force_zeros_for_empty_prompt": True}),
    }
