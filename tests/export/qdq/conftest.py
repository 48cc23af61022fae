"""The small UNet, exported once in fp32, and its checkpoints, shared by the Q/DQ tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from onnxscript import version_converter

from sdxl.config import graphs
from sdxl.config.schema import Config
from sdxl.core.store import Artifact
from sdxl.export import modules
from sdxl.export import onnx as export
from sdxl.export.qdq import artifact
from sdxl.export.qdq.options import ONNX_RUNTIME, Options
from sdxl.model.sources import open_source
from sdxl.quant import build
from tests.composing import checked
from tests.small import Exported


@dataclass
class Bench:
    """The store with the exported UNet; makes checkpoints and quantized graphs in it."""

    exported: Exported

    def config(self, *words: str) -> Config:
        """A checked configuration of the small model for ONNX Runtime."""
        return checked("run", *self.exported.words, "backend=ort", *words)

    def recipe(self, *words: str) -> Config:
        """The same with a quantization; calibrated on one prompt where it needs one."""
        size = [] if "weight_only" in " ".join(words) else ["calib_size=1"]
        return self.config(*words, *size)

    def graph(self, config: Config) -> Artifact:
        return export.get(config, "unet")

    def checkpoint(self, config: Config) -> Artifact:
        return build.prepare(config)

    def edited(
        self,
        config: Config,
        folder: Path,
        options: Options = ONNX_RUNTIME,
        graph: Path | None = None,
    ) -> dict:
        """The quantized graph in `folder`, by default of the export; returns manifest fields."""
        folder.mkdir(parents=True, exist_ok=True)
        source, checkpoint = graph or self.graph(config).path, self.checkpoint(config).path
        return artifact.quantize(source, checkpoint, folder, options)

    def newer(self, folder: Path, opset: int) -> Path:
        """The exported UNet in a higher opset, by the exporter's own converter."""
        source = self.graph(self.config()).path
        model = ir.from_proto(onnx.load(source / graphs.MODEL, load_external_data=False))
        version_converter.convert_version(model, opset)
        folder.mkdir()
        onnx.save(ir.to_proto(model), folder / graphs.MODEL)
        (folder / graphs.WEIGHTS).hardlink_to(source / graphs.WEIGHTS)
        return folder


@pytest.fixture(scope="session")
def kept(exported_once) -> Bench:
    torch.set_num_threads(1)
    return Bench(exported_once)


@pytest.fixture
def bench(kept, monkeypatch) -> Bench:
    """The shared bench with its store in use."""
    monkeypatch.setenv("SDXL_STORE", str(kept.exported.store))
    return kept


@pytest.fixture(scope="session")
def network(kept) -> modules.Exportable:
    """The unquantized UNet with inputs for two images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(kept.exported.store))
        config = kept.config()
        return modules.prepare(config, open_source(config.model, config.seed), "unet", 2)
