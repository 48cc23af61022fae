"""What a backend loads, found or made: checkpoint -> ONNX graphs -> Q/DQ graph -> engines.

A backend's `LOADS` says how far the chain goes. Pieces are made in child processes: their memory
goes back, and a crash ends the child, not the cell.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdxl.bench import generators
from sdxl.config import graphs
from sdxl.config import load as configuration
from sdxl.config.schema import Config, Format, ScenesModel, TinyModel
from sdxl.core import isolate, store
from sdxl.core.store import Artifact
from sdxl.run import worker

Child = Callable[..., Any]
"""`child(work, *args)` runs `work(link, config, *args)` in a fresh process; see `isolate.run`."""


@dataclass(frozen=True)
class Piece:
    """One artifact of the chain; `built` if it was made now rather than found."""

    graph: str
    path: Path
    manifest: dict[str, Any]
    built: bool


@dataclass
class Chain:
    """All pieces in the order of making; `loads` is what the backend gets."""

    pieces: list[Piece] = field(default_factory=list)
    loads: dict[str, Path] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    layer_errors: list[dict[str, Any]] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)

    def piece(self, graph: str) -> Piece:
        """The newest artifact of a graph."""
        return next(each for each in reversed(self.pieces) if each.graph == graph)


def build(config: Config, child: Child) -> Chain:
    """Everything that `config.backend` loads beside the weights."""
    chain = Chain()
    loads = configuration.backend_modules()[config.backend.name].LOADS
    if loads != "nothing" and config.quant.format is not Format.none:
        with _timed(chain, "quantize_s"):
            found = child(worker.quantize)
            _take(chain, {"unet": found})
            chain.layer_errors = found["layer_errors"]
    if loads in ("graphs", "engines"):
        checkpoint = chain.pieces[0] if chain.pieces else None
        with _timed(chain, "export_s"):
            _graphs(chain, config, child)
        if checkpoint:
            with _timed(chain, "qdq_s"):
                parents = _names(chain.piece("unet")), _names(checkpoint)
                _take(chain, {"unet": child(quantize_graph, *parents)})
    if loads == "engines":
        with _timed(chain, "engine_s"):
            for graph in graphs.GRAPHS:
                made = child(build_engine, graph, _names(chain.piece(graph)))
                _take(chain, {graph: made})
    return chain


def _graphs(chain: Chain, config: Config, child: Child) -> None:
    """The four graphs; large ones each in a child, so that only one network is in memory."""
    small = isinstance(config.model, TinyModel | ScenesModel)
    batches = [graphs.GRAPHS] if small else [(graph,) for graph in graphs.GRAPHS]
    for batch in batches:
        _take(chain, child(export_graphs, batch))
    if config.export.parity:
        for batch in batches:
            chain.parity |= child(check_parity, {graph: chain.loads[graph] for graph in batch})


def export_graphs(link: isolate.Link, config: Config, names: Sequence[str]) -> dict[str, Any]:
    """In a child: find or export these graphs."""
    _use_diffusers(config)
    from sdxl.export import onnx

    found = {}
    for name in names:
        link.report({"phase": f"exporting {name}"})
        found[name] = _packed(onnx.get(config, name, link.report))
    return found


def check_parity(link: isolate.Link, config: Config, folders: dict[str, Path]) -> dict[str, Any]:
    """In a child: how far these graphs are from torch, as a whole and layer by layer."""
    _use_diffusers(config)
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


def build_engine(
    link: isolate.Link, config: Config, graph: str, source: tuple[str, str]
) -> dict[str, Any]:
    """In a child: the engine of one graph, whose artifact is `source` (kind, key)."""
    from sdxl.export import engine

    link.report({"phase": f"building the engine of {graph}"})
    return _packed(engine.get(config, graph, _found(source), link.report))


def _take(chain: Chain, found: dict[str, dict[str, Any]]) -> None:
    for graph, each in found.items():
        chain.pieces.append(Piece(graph, Path(each["path"]), each["manifest"], each["built"]))
        chain.loads[graph] = Path(each["path"])


def _packed(artifact: Artifact) -> dict[str, Any]:
    manifest = dataclasses.asdict(artifact.manifest)
    return {"path": str(artifact.path), "manifest": manifest, "built": artifact.built}


def _names(piece: Piece) -> tuple[str, str]:
    return piece.manifest["kind"], piece.manifest["key"]


def _found(names: tuple[str, str]) -> Artifact:
    artifact = store.find(*names)
    assert artifact, f"{names} vanished from the store"
    return artifact


def _use_diffusers(config: Config) -> None:
    if config.model.diffusers_src:
        generators.use_diffusers(config.model.diffusers_src)


@contextmanager
def _timed(chain: Chain, name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    chain.durations[name] = round(time.perf_counter() - began, 3)
