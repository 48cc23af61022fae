"""One network's ONNX graph as an artifact: content key, build, facts."""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.config import content_key, graphs, shortcuts
from sdxl.config.schema import Config, DType
from sdxl.core import environment, store
from sdxl.core.progress import Report, Spent, silent
from sdxl.core.store import Artifact
from sdxl.model import checkout, guidance
from sdxl.model.components import Source
from sdxl.model.sources import open_source

if TYPE_CHECKING:
    import onnx_ir as ir

    from sdxl.export.modules import Exportable

KIND = "onnx"
VERSION = 1
"""Bumped by hand when the same settings make another graph."""
PACKAGES = ("torch", "onnx-ir", "onnxscript", "diffusers", "transformers")


def get(config: Config, graph: str, on_progress: Report = lambda _: None) -> Artifact:
    """The graph, found in the store or exported now with only this network in memory."""
    source = open_source(config.model, config.seed)
    described = settings(config, graph)

    def build(folder: Path) -> dict[str, Any]:
        return _export(config, source, graph, folder, on_progress)

    return store.get(
        KIND, key(config, graph, source), build, settings=described, allow=config.build,
        otherwise="first export.py with the same settings",
    )  # fmt: skip


def settings(config: Config, graph: str) -> dict[str, Any]:
    """Everything beside the weights that decides the graph."""
    found: dict[str, Any] = {
        "version": VERSION,
        "graph": graph,
        "dtype": graphs.dtype_of(config, graph).value,
        "opset": graphs.opset(config, graph),
        "packages": versions(),
        **checkout.identity(config.model),
    }
    if graphs.is_unet(graph) and (branch := shortcuts.branch_of(config.shortcut)) is not None:
        found["branch"] = branch
    if (whole := _whole(config, graph)) not in ("", "unet_deep"):  # older keys name none
        found["weights_of"] = whole
    if not graph.startswith("text_encoder"):
        size = [config.model.height, config.model.width]
        found["size"] = "dynamic" if config.export.dynamic_size else size
    return found


def _whole(config: Config, graph: str) -> str:
    """The graph in whose file a part's weights lie; empty for a graph with a file of its own."""
    first = graphs.unets(config.shortcut)[0]
    return first if graphs.is_unet(graph) and graph != first else ""


def key(config: Config, graph: str, source: Source | None = None) -> str:
    """Content key over `settings` and the weights, a fused LoRA included."""
    source = source or open_source(config.model, config.seed)
    width = guidance.width(source) if graphs.is_unet(graph) else None
    embedded = [width] if width else []  # older keys have none
    return content_key.key(KIND, settings(config, graph), source.identity(), *embedded)


def versions() -> dict[str, str]:
    """Of the packages whose code decides the graph."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def build(config: Config, network: Exportable, tell: Callable[[str], None] = silent) -> ir.Model:
    """The network's graph with its weights, traced only if its architecture is a new one."""
    from sdxl.export import onnx_graph, trace

    traced = functools.partial(trace.get, settings(config, network.graph))
    return onnx_graph.build(network, graphs.opset(config, network.graph), tell, traced)


def _export(
    config: Config, source: Source, graph: str, folder: Path, on_progress: Report
) -> dict[str, Any]:
    from sdxl.export import modules, onnx_check, onnx_graph

    spent = Spent()

    def tell(text: str) -> None:
        spent.begin(text)
        on_progress({"phase": f"exporting {graph}", "text": text})

    began = time.perf_counter()
    tell("loading")
    images, shapes = modules.EXAMPLE_IMAGES, graphs.is_unet(graph)
    network = modules.prepare(config, source, graph, images, shapes)
    if graph == "vae_decoder" and graphs.dtype_of(config, graph) is not DType.fp32:
        onnx_check.decodes(network)
    model = build(config, network, tell)
    tell("writing")
    if whole := _whole(config, graph):
        onnx_graph.save_part(model, folder, get(config, whole, on_progress).path)
    else:
        onnx_graph.save(model, folder)
    tell("checking")
    facts = onnx_check.check(folder, linked=bool(whole))
    spent.begin("")
    taken = {"seconds": spent.seconds, "cpu_seconds": spent.cpu_seconds}
    return {
        "settings": {**settings(config, graph), **facts, **taken},
        "seconds": round(time.perf_counter() - began, 3),
        "peak_bytes": environment.peak_rss_bytes(),
        "versions": versions(),
        "device": {"name": "cpu"},
    }
