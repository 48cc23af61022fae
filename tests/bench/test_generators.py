"""A locally changed diffusers is what runs, and the record says so."""

import shutil
from pathlib import Path

import diffusers
import pytest

SMALL = (
    "model=tiny_random",
    "rules=open",
    "model.steps=1",
    "model.height=64",
    "model.width=64",
    "limit=2",
    "scenario.min_duration_ms=0",
)


@pytest.fixture
def checkout(tmp_path):
    """The installed diffusers as a source tree, its UNet changed by a line."""
    source = tmp_path / "checkout/src/diffusers"
    installed = Path(diffusers.__file__).parent
    shutil.copytree(installed, source, ignore=shutil.ignore_patterns("__pycache__"))
    changed = source / "models/unets/unet_2d_condition.py"
    text = changed.read_text()
    assert "        if self.config.center_input_sample:\n" in text
    mark = '        print("the changed UNet runs")\n        if self.config.center_input_sample:\n'
    changed.write_text(text.replace("        if self.config.center_input_sample:\n", mark, 1))
    return tmp_path / "checkout"


@pytest.mark.slow
def test_the_changed_unet_runs_and_is_recorded(cli, checkout):
    plain = cli(*SMALL)
    done = cli(*SMALL, f"model.diffusers_src={checkout}")
    assert plain.code == done.code == 0, plain.err + done.err
    assert "the changed UNet runs" in (done.dir / "worker.log").read_text()
    assert "the changed UNet runs" not in (plain.dir / "worker.log").read_text()
    here, there = (each.record["environment"]["diffusers"] for each in (plain, done))
    assert there["path"] == str(checkout / "src/diffusers")
    assert here["path"] == str(Path(diffusers.__file__).parent)
    assert here["version"] == there["version"] and here["sha256"] != there["sha256"]
    pictures = [[image["sha256"] for image in each.record["images"]] for each in (plain, done)]
    assert pictures[0] == pictures[1], "printing changes no pixel"


def test_a_folder_without_diffusers_is_refused(cli, tmp_path):
    done = cli(*SMALL, f"model.diffusers_src={tmp_path}")
    assert done.code == 2
    assert "no diffusers checkout" in done.err and "src/diffusers" in done.err
