"""Is the edited graph what was asked for? Read from the graph itself, not from the edit."""

from __future__ import annotations

from typing import Any

import onnx

from sdxl.core.errors import SdxlError
from sdxl.export.onnx_check import shell
from sdxl.export.qdq.graph import Graph
from sdxl.model.checkpoint import StoredLayer

READERS = ("Conv", "Gemm", "MatMul")
MOVES = ("Transpose", "Reshape")
"""Between a DequantizeLinear and its reader these change no number."""


def complete(model: Any, expected: dict[str, StoredLayer]) -> None:
    """Raise `SdxlError` unless exactly the expected layers are quantized, each one whole.

    A weighted layer is whole with a dequantized weight and, unless weight-only, a dequantized
    input; attention with four dequantized inputs of its two products.
    """
    graph = Graph(model)
    sides: dict[str, list[bool]] = {}
    for name, nodes in graph.of_module.items():
        read = [input for node in nodes if node.op_type in READERS for input in node.input[:2]]
        sides[name] = [_dequantized(graph, tensor) for tensor in read]
    inserted = {name for name, found in sides.items() if any(found)}
    whole = {name for name in inserted & set(expected) if sides[name] == _wanted(expected[name])}
    for what, names in (
        ("quantized though not selected", inserted - set(expected)),
        ("selected but not quantized", set(expected) - inserted),
        ("quantized by half", (inserted & set(expected)) - whole),
    ):
        if names:
            raise SdxlError(
                f"{len(names)} layers of the graph are {what}",
                ", ".join(sorted(names)[:10]),
                f"{len(expected)} quantized layers",
            )


def valid(model: Any) -> None:
    """ONNX's checker and its shape inference; weights that lie in files stand in as inputs.

    (The checker refuses files with several hard links, which is what spares us copies.)
    """
    try:
        onnx.checker.check_model(shell(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise SdxlError("the quantized graph is not valid ONNX", str(error)[:500]) from error


def _wanted(layer: StoredLayer) -> list[bool]:
    if layer.kind == "attention":
        return [True] * 4
    return [not layer.weight_only, True]


def _dequantized(graph: Graph, tensor: str) -> bool:
    maker = graph.makers.get(tensor)
    while maker is not None and maker.op_type in MOVES:
        maker = graph.makers.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"
