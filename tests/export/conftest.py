"""Four small graphs, exported once by `export.py` itself, for all tests of this folder."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdxl import architecture, artifacts, config
from tests.conftest import ROOT

SMALL = {
    **architecture.TINY["unet"],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64],
    "transformer_layers_per_block": [1, 1],
    "attention_head_dim": [2, 4],
}
"""SDXL's kinds of layers in half the blocks of `tiny`: the exporter's time is what tests pay."""


@dataclass
class Exported:
    """The store with the graphs, the words that name them, and what `export.py` said."""

    store: Path
    words: list[str]
    outcome: dict
    screen: str

    def folder(self, graph):
        return next(Path(p["path"]) for p in self.outcome["pieces"] if p["graph"] == graph)


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    (folder / "unet.json").write_text(json.dumps(SMALL))
    words = ["model=tiny_random", f"model.unet_config={folder}/unet.json", "model.height=64",
             "model.width=64", "model.steps=2", "rules=open"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "export.py"), "export.parity=true", "tracking=off", *words,
         f"hydra.run.dir={folder}/run"],
        cwd=folder, env=os.environ | {"SDXL_STORE": str(folder / "store")},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    return Exported(folder / "store", words, outcome, done.stderr)


@pytest.fixture
def exported(exported_once, monkeypatch):
    """The exported graphs, their store in use."""
    monkeypatch.setenv("SDXL_STORE", str(exported_once.store))
    return exported_once


@pytest.fixture
def asked(exported, composed):
    """Further words -> the configuration of the exported model."""
    return lambda *words: config.load(composed(*exported.words, "backend=ort", *words))


@pytest.fixture
def chain_of():
    """A configuration -> its chain of artifacts, every step in this process."""

    class Here:
        def report(self, message):
            self.said = message

    return lambda cfg: artifacts.build(cfg, lambda work, *args: work(Here(), cfg, *args))
