"""One small UNet, exported once in fp32, and its checkpoints, shared by the Q/DQ tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sdxl import architecture, quant
from sdxl.config import ROOT, load, register
from sdxl.export import onnx, qdq
from sdxl.export.qdq.options import ONNX_RUNTIME, Options
from sdxl.schema import Config
from sdxl.store import Artifact

SMALL = {
    **architecture.TINY["unet"],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64],
    "transformer_layers_per_block": [1, 1],
    "attention_head_dim": [2, 4],
}
"""SDXL's kinds of layers in half the blocks of `tiny`: the exporter's time is what tests pay."""

register()


@dataclass
class Bench:
    """A store with the exported UNet; makes checkpoints and quantized graphs in it."""

    folder: Path
    unet_config: Path

    def config(self, *words: str) -> Config:
        """A checked configuration of the small model for ONNX Runtime."""
        GlobalHydra.instance().clear()
        base = [
            "model=tiny_random",
            "rules=open",
            "model.steps=2",
            "model.height=64",
            "model.width=64",
            "backend=ort",
            "export.opset=21",
            f"model.unet_config={self.unet_config}",
        ]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return load(compose("run", overrides=[*base, *words]))

    def recipe(self, *words: str) -> Config:
        """The same with a quantization; calibrated on one prompt where it needs one."""
        size = [] if "weight_only" in " ".join(words) else ["calib_size=1"]
        return self.config(*words, *size)

    def graph(self, config: Config) -> Artifact:
        return onnx.get(config, "unet")

    def checkpoint(self, config: Config) -> Artifact:
        return quant.prepare(config)

    def edited(self, config: Config, folder: Path, options: Options = ONNX_RUNTIME) -> dict:
        """The quantized graph in `folder`; returns the manifest fields."""
        folder.mkdir(parents=True, exist_ok=True)
        graph, checkpoint = self.graph(config).path, self.checkpoint(config).path
        return qdq.quantize(graph, checkpoint, folder, options)


@pytest.fixture(scope="session")
def kept(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("qdq")
    unet_config = folder / "unet.json"
    unet_config.write_text(json.dumps(SMALL))
    torch.set_num_threads(1)
    return Bench(folder, unet_config)


@pytest.fixture
def bench(kept, monkeypatch) -> Bench:
    """The shared bench with its store in use."""
    monkeypatch.setenv("SDXL_STORE", str(kept.folder / "store"))
    return kept
