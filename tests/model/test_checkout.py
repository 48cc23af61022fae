"""A diffusers of one's own: its code is in keys, whatever lies around it is not."""

import dataclasses
import sys

import pytest

from sdxl.config.load import load as check
from sdxl.core.errors import UserError
from sdxl.model import checkout
from sdxl.quant import build, calibrate, command
from sdxl.run import identity
from sdxl.training import command as training


@pytest.fixture
def code(tmp_path):
    """A checkout with a package of one module."""
    package = tmp_path / "src/diffusers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return tmp_path


def test_only_modules_of_the_package_make_a_key(code, load):
    config = load("backend=torch", f"model.diffusers_src={code}")
    before = checkout.identity(config.model)["diffusers_src"], identity.artifact_key(config)
    for name in (".git/index", "src/diffusers/__pycache__/a.pyc", "README.md", "tests/a.py"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("new")
    assert (
        checkout.identity(config.model)["diffusers_src"],
        identity.artifact_key(config),
    ) == before
    (code / "src/diffusers/__init__.py").write_text("changed = 1")
    assert checkout.identity(config.model)["diffusers_src"] != before[0] != ""
    assert identity.artifact_key(config) != before[1]
    assert checkout.identity(load("backend=torch").model) == {}


def test_quantizing_and_training_use_it(code, load, composed, monkeypatch):
    plain = load("model=tiny_random", "quant=int8_weight_only")
    other = dataclasses.replace(
        plain, model=dataclasses.replace(plain.model, diffusers_src=str(code))
    )
    assert build.key_of(plain) != build.key_of(other)
    assert calibrate.settings_of(plain, False) != calibrate.settings_of(other, False)
    taught = check(composed("train=unet", f"model.diffusers_src={code}", name="train"))
    for run, config in ((command.run, other), (training.run, taught)):
        with pytest.raises(UserError, match="imported before its checkout"):
            run(config, code)
    used = []
    monkeypatch.delitem(sys.modules, "diffusers")
    monkeypatch.setattr(sys, "path", used)
    checkout.use(other.model)
    assert used == [str(code / "src")]
