"""The chain of artifacts that a backend loads, by key, without making any of it."""

from __future__ import annotations

from typing import Any

from sdxl.config import engines, graphs, rules_engines
from sdxl.config.engines import Flavor
from sdxl.config.plugins import Form, backend_of
from sdxl.config.schema import Config, Format, Quant
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model import checkout, guidance
from sdxl.model.sources import open_source, shapes_source

UNKNOWN = None
"""A key that cannot be told: of weights that are not here, or of a graph that is not made yet."""


def rows(config: Config) -> list[dict[str, Any]]:
    """Each artifact in the order of making: `graph`, `kind`, `key`, `as` (in words), `there`.

    Raises `UserError` for a model that cannot be drawn with, as the run would.
    `there` is True, False, or None where nobody can tell: without the weights nothing has a key.
    An engine's key holds its graph's bytes: the engine of a graph to be made is to be made, too.
    """
    checkout.use(config.model)
    shapes_source(config.model, config.seed)
    quantized = config.quant.format is not Format.none
    try:
        checkpoint = _checkpoint(config) if quantized else []
        exported = _graphs(config, keyed=True)
    except UserError:
        checkpoint = (
            [_row("unet", "checkpoint", UNKNOWN, _recipe(config.quant))] if quantized else []
        )
        exported = _graphs(config, keyed=False)
    found = [*checkpoint, *exported]
    sources = {row["graph"]: row for row in exported}
    if quantized:
        for graph in filter(graphs.is_unet, graphs.of(config)):
            found.append(_quantized(config, graph, sources[graph]["key"], checkpoint[-1]["key"]))
            sources[graph] = found[-1]
    if form := backend_of(config).form:
        found += [_converted(config, form, sources[graph]) for graph in graphs.of(config)]
    if backend_of(config).loads == "engines":
        found += [_engine(config, sources[graph]) for graph in graphs.of(config)]
    return found


def _row(graph: str, kind: str, key: str | None, words: str) -> dict[str, Any]:
    there = store.find(kind, key) is not None if key else None
    return {"graph": graph, "kind": kind, "key": key, "as": words, "there": there}


def _recipe(quant: Quant) -> str:
    return f"{quant.format.value}, level {quant.level:g}"


def _checkpoint(config: Config) -> list[dict[str, Any]]:
    """Statistics, where the recipe collects any, and the checkpoint."""
    from sdxl.quant import build

    return [
        _row("unet", kind, key, _recipe(config.quant)) for kind, key in build.keys(config).items()
    ]


def _graphs(config: Config, keyed: bool) -> list[dict[str, Any]]:
    from sdxl.export import onnx

    source = open_source(config.model, config.seed) if keyed else None
    found = []
    for graph in graphs.of(config):
        settings = onnx.settings(config, graph)
        words = f"{settings['dtype']}, opset {settings['opset']}"
        if size := settings.get("size"):
            words += f", {size if isinstance(size, str) else '{} x {}'.format(*size)}"
        key = onnx.key(config, graph, source) if source else UNKNOWN
        found.append(_row(graph, onnx.KIND, key, words))
    return found


def _quantized(
    config: Config, graph: str, exported: str | None, checkpoint: str | None
) -> dict[str, Any]:
    from sdxl.export.qdq import artifact
    from sdxl.export.qdq.options import options_of

    key = artifact.key(config, exported, checkpoint) if exported and checkpoint else UNKNOWN
    options = options_of(config)
    layout, convolutions = options.layout.value, options.convolutions.value
    words = f"{_recipe(config.quant)}, {layout}, convolutions as {convolutions}"
    return _row(graph, artifact.KIND, key, words)


def _converted(config: Config, form: Form, source: dict[str, Any]) -> dict[str, Any]:
    """A graph in the backend's own form; its key follows from what it is made of."""
    graph, known = source["graph"], source["key"] and not form.missing(config)
    key = form.key(config, graph, source["kind"], source["key"]) if known else UNKNOWN
    return _row(graph, form.kind, key, source["as"])


def _engine(config: Config, source: dict[str, Any]) -> dict[str, Any]:
    """An engine; its `there` is None also where this machine lacks what its key is made of."""
    graph = source["graph"]
    least, usual, most = engines.rows(config, graph, guidance.rows_of(config))
    flavor = engines.choose(config)
    words = f"{flavor.value}, rows {most}"
    if least < most:
        words = f"{flavor.value}, rows {least} to {most}, best at {usual}"
    if flavor is Flavor.rtx:
        words += f", {' '.join(engines.targets(config))}"
    if list(rules_engines.missing(config, run=False)) or source["there"] is None:
        return _row(graph, engines.KIND, UNKNOWN, words)
    if not source["there"]:
        return {**_row(graph, engines.KIND, UNKNOWN, words), "there": False}
    from sdxl.export import engine

    made = store.find(source["kind"], source["key"])
    assert made, f"{source['key']} vanished from the store"
    return _row(graph, engines.KIND, engine.key(config, graph, made), words)
