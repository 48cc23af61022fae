"""What a backend loads, found or made: checkpoint -> ONNX graphs -> Q/DQ graph -> engines,
or the backend's own form of graphs.

A backend's `loads` says how far the chain goes. Pieces are made in child processes: their memory
goes back, and a crash ends the child, not the cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdxl.config import graphs, plugins
from sdxl.config.schema import Config, Format, ScenesModel, TinyModel
from sdxl.run import jobs
from sdxl.run.jobs import build_engine, check_parity, convert_graphs, export_graphs, quantize_graph

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
    loads = plugins.backend_of(config).loads
    if loads != "nothing" and config.quant.format is not Format.none:
        with _timed(chain, "quantize_s"):
            found = child(jobs.quantize)
            _take(chain, {"unet": found})
            chain.layer_errors = found["layer_errors"]
    if loads in ("graphs", "engines"):
        checkpoint = chain.pieces[0] if chain.pieces else None
        with _timed(chain, "export_s"):
            _graphs(chain, config, child)
        if checkpoint:
            with _timed(chain, "qdq_s"):
                for graph in filter(graphs.is_unet, graphs.of(config)):
                    parents = _names(chain.piece(graph)), _names(checkpoint)
                    _take(chain, {graph: child(quantize_graph, *parents)})
    if plugins.backend_of(config).form:
        with _timed(chain, "convert_s"):
            sources = {graph: _names(chain.piece(graph)) for graph in graphs.of(config)}
            _take(chain, child(convert_graphs, sources))
    if loads == "engines":
        with _timed(chain, "engine_s"):
            for graph in graphs.of(config):
                made = child(build_engine, graph, _names(chain.piece(graph)))
                _take(chain, {graph: made})
    return chain


def _graphs(chain: Chain, config: Config, child: Child) -> None:
    """The graphs; large ones each in a child, so that only one network is in memory."""
    small, every = isinstance(config.model, TinyModel | ScenesModel), graphs.of(config)
    batches = [every] if small else [(graph,) for graph in every]
    for batch in batches:
        _take(chain, child(export_graphs, batch))
    if config.export.parity:
        for batch in batches:
            chain.parity |= child(check_parity, {graph: chain.loads[graph] for graph in batch})


def _take(chain: Chain, found: dict[str, dict[str, Any]]) -> None:
    for graph, each in found.items():
        chain.pieces.append(Piece(graph, Path(each["path"]), each["manifest"], each["built"]))
        chain.loads[graph] = Path(each["path"])


def _names(piece: Piece) -> tuple[str, str]:
    return piece.manifest["kind"], piece.manifest["key"]


@contextmanager
def _timed(chain: Chain, name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    chain.durations[name] = round(time.perf_counter() - began, 3)
