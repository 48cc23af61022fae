"""All that runs in a watched child process but the measurement itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.bench import generators
from sdxl.config.plugins import backend_of, quality_of
from sdxl.config.schema import Config
from sdxl.core import isolate, store
from sdxl.core.progress import Report
from sdxl.core.store import Artifact
from sdxl.model import checkout
from sdxl.model.prompts import load
from sdxl.quality import reference as reference_of


def quantize(link: isolate.Link, config: Config) -> dict[str, Any]:
    """In a child: find or make the quantized checkpoint and its per-layer errors."""
    checkout.use(config.model)
    from sdxl.quant import build, layer_errors

    link.report({"phase": "quantizing"})
    made = build.prepare(config, link.report)
    link.report({"phase": "quantizing: errors per layer"})
    errors = layer_errors.layer_report(config, made, link.report)
    return {**_packed(made), "layer_errors": errors}


def reference(link: isolate.Link, config: Config) -> dict[str, Any]:
    """In a child: find or draw the reference's pictures."""
    checkout.use(config.model)
    from sdxl.quality import reference_pictures

    prompts = reference_of.chosen(config, load(config.dataset, config.limit, config.seed))
    drawing = reference_of.drawing(config)

    def opened() -> Any:
        return generators.open_generator(drawing, {}, prompts)

    link.report({"phase": "reference pictures"})
    return reference_pictures.get(config, prompts, opened, link.report)


def export_graphs(link: isolate.Link, config: Config, names: Sequence[str]) -> dict[str, Any]:
    """In a child: find or export these graphs."""
    checkout.use(config.model)
    from sdxl.export import onnx

    found = {}
    for name in names:
        link.report({"phase": f"exporting {name}"})
        found[name] = _packed(onnx.get(config, name, link.report))
    return found


def check_parity(link: isolate.Link, config: Config, folders: dict[str, Path]) -> dict[str, Any]:
    """In a child: how far these graphs are from torch, as a whole and layer by layer."""
    checkout.use(config.model)
    from sdxl.export import parity

    found = {}
    for name, folder in folders.items():
        link.report({"phase": f"comparing {name} with torch"})
        found[name] = parity.compare(config, name, folder)
    return found


def quantize_graph(
    link: isolate.Link, config: Config, graph: tuple[str, str], checkpoint: tuple[str, str]
) -> dict[str, Any]:
    """In a child: the UNet's graph with the checkpoint's scales; arguments are (kind, key)."""
    from sdxl.export.qdq import artifact as qdq

    link.report({"phase": "inserting Q/DQ into unet"})
    return _packed(qdq.get(config, _found(graph), _found(checkpoint)))


def convert_graphs(
    link: isolate.Link, config: Config, sources: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """In a child: each graph, named by (kind, key), in the backend's own form."""
    form = backend_of(config).form
    assert form
    found = {}
    for graph, source in sources.items():
        link.report({"phase": f"converting {graph}"})
        found[graph] = _packed(form.get(config, graph, _found(source)))
    return found


def build_engine(
    link: isolate.Link, config: Config, graph: str, source: tuple[str, str]
) -> dict[str, Any]:
    """In a child: the engine of one graph, whose artifact is `source` (kind, key)."""
    from sdxl.export import engine

    link.report({"phase": f"building the engine of {graph}"})
    return _packed(engine.get(config, graph, _found(source), link.report))


def _packed(artifact: Artifact) -> dict[str, Any]:
    manifest = dataclasses.asdict(artifact.manifest)
    return {"path": str(artifact.path), "manifest": manifest, "built": artifact.built}


def _found(names: tuple[str, str]) -> Artifact:
    artifact = store.find(*names)
    assert artifact, f"{names} vanished from the store"
    return artifact


def child(
    config: Config, folder: Path, report: Report, env: dict[str, str], work: Any, *args: Any
) -> Any:
    """Run `work(link, config, *args)` in a fresh process, its log in the cell's folder."""
    scorer = quality_of(config)
    torch_needed = backend_of(config).needs_torch or scorer is not None
    return isolate.run(
        work,
        config,
        *args,
        log=folder / "worker.log",
        limit_s=config.scenario.startup_s,
        on_report=report,
        timeout_s=config.timeout_s,
        env=env,
        preload=checkout.preloaded(config.model, torch_needed, "sdxl.run.worker"),
    )
