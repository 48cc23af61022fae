"""A graph in OpenVINO's own form, its IR: an artifact in the place of the ONNX one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.backends.openvino import library
from sdxl.config import content_key, graphs, schema
from sdxl.core import store
from sdxl.core.errors import SdxlError
from sdxl.core.store import Artifact

KIND = "openvino"
IR = "model.xml"
"""A graph's file; its weights lie in `model.bin` beside it."""
VERSION = 1
"""Bumped by hand when the same graph makes another IR."""


def key(_config: schema.Config, graph: str, kind: str, key: str) -> str:
    """Content key over the version of OpenVINO and the graph that it is made of."""
    return content_key.key(KIND, _described(graph), [kind, key])


def get(config: schema.Config, graph: str, source: Artifact) -> Artifact:
    """The IR of a graph, found in the store or made now."""
    names, described = source.manifest, _described(graph)

    def build(folder: Path) -> dict[str, Any]:
        convert(source.path / graphs.MODEL, folder / IR, graph)
        return {"versions": {"openvino": described["openvino"]}}

    return store.get(
        KIND,
        key(config, graph, names.kind, names.key),
        build,
        settings=described,
        parents=[names.key],
        allow=config.build,
        otherwise="first export.py with the same settings",
    )


def convert(model: Path, file: Path, graph: str) -> None:
    """An ONNX graph as IR; weights stay in the numbers that they are in.

    Raises `SdxlError` for a graph that OpenVINO does not take.
    """
    openvino = library.load()
    try:
        openvino.save_model(openvino.Core().read_model(model), file, compress_to_fp16=False)
    except RuntimeError as error:
        raise SdxlError(
            f"OpenVINO does not take the graph of {graph}",
            str(error)[:500],
            "operators and types that it knows",
            "backend=ort",
        ) from error


def _described(graph: str) -> dict[str, Any]:
    from importlib.metadata import version  # with e-mail messages and archives behind it

    return {"version": VERSION, "graph": graph, "openvino": version("openvino")}
