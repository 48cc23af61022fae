"""Q/DQ by graph edit: one exported UNet and a quantized checkpoint make a quantized graph.

The exported file is not touched and no weight is copied: the new graph's float weights are the
export's own file and its 8-bit weights the checkpoint's, both hard-linked beside it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sdxl.config import content_key, graphs
from sdxl.config.schema import Config
from sdxl.core import disk, store
from sdxl.core.store import Artifact
from sdxl.export.qdq import check
from sdxl.export.qdq.edit import Edit
from sdxl.export.qdq.options import Options, options_of
from sdxl.model.checkpoint import WEIGHTS, Checkpoint

KIND = "qdq"
VERSION = 1
"""Bumped by hand when the same parents and options make another graph."""


def get(config: Config, graph: Artifact, checkpoint: Artifact) -> Artifact:
    """The quantized UNet as `config.backend` wants it, found in the store or made now."""
    options = options_of(config)
    parents = graph.manifest.key, checkpoint.manifest.key

    def build(folder: Path) -> dict[str, Any]:
        part = not graphs.has_all_layers(graph.manifest.settings["graph"])
        return quantize(graph.path, checkpoint.path, folder, options, part)

    return store.get(
        KIND, key(config, *parents), build,
        settings={"version": VERSION, "options": options.plain()}, parents=list(parents),
        allow=config.build, otherwise="first export.py with the same settings",
    )  # fmt: skip


def key(config: Config, graph: str, checkpoint: str) -> str:
    """Content key over both parents' keys and the form that the backend wants."""
    return content_key.key(KIND, VERSION, options_of(config).plain(), [graph, checkpoint])


def quantize(
    source: Path, checkpoint: Path, folder: Path, options: Options, part: bool = False
) -> dict[str, Any]:
    """Write the UNet of `source` with the Q/DQ nodes of `checkpoint` into `folder`.

    part: the graph has some of the checkpoint's layers only.
    Returns manifest fields: what was inserted, counted. Raises `SdxlError` if a layer of the
    checkpoint is not in the graph, has another shape, or ends up unquantized.
    """
    import onnx

    began = time.perf_counter()
    model = onnx.load(source / graphs.MODEL, load_external_data=False)
    stored = Checkpoint(checkpoint)
    edit = Edit(model, stored, options)
    if part:
        edit.expected = {
            n: layer for n, layer in edit.expected.items() if n in edit.graph.of_module
        }
    edit.run()
    check.complete(model, edit.expected)
    check.valid(model)
    onnx.save(model, folder / graphs.MODEL)
    # Quantized weights leave the graph; a checkpoint of attention alone has none.
    files = {tensor_file for tensor in model.graph.initializer if (tensor_file := _file(tensor))}
    for name, place in ((graphs.WEIGHTS, source), (WEIGHTS, checkpoint)):
        if name in files:
            disk.link(place / name, folder / name)
    return {
        "settings": {"version": VERSION, "options": options.plain(), "inserted": edit.counts()},
        "seconds": round(time.perf_counter() - began, 3),
        "versions": {"onnx": onnx.__version__},
    }


def _file(tensor: Any) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
