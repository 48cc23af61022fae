"""FP8 attention: q, k, v and the softmax, rounded at the two products that read them.

There, after reshapes and the factor 1/sqrt(sqrt(head size)) of q and k, TensorRT fuses them into
one FP8 kernel. Ranges are those of the projections' outputs, times that factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdxl.core.errors import SdxlError
from sdxl.model.checkpoint import StoredLayer

if TYPE_CHECKING:
    from sdxl.export.qdq.nodes import Nodes


def quantize(nodes: Nodes, layer: StoredLayer) -> None:
    """Insert four pairs of Q and DQ; raises `SdxlError` if the two products are not found."""
    scores, mixed = products(nodes.graph, layer.name)
    for node, place, part in ((scores, 0, "q"), (scores, 1, "k"), (mixed, 0, "softmax"),
                              (mixed, 1, "v")):  # fmt: skip
        amax = nodes.stored.tensor(f"{layer.name}.{part}_amax").float()
        factor, data_type = _factor(nodes, node.input[place])
        node.input[place] = nodes.round_trip(
            node, layer, node.input[place], f"{layer.name}/{part}",
            amax * torch.tensor(factor), data_type or _type(nodes, layer.name),
        )  # fmt: skip


def products(graph: Any, name: str) -> tuple[Any, Any]:
    """The MatMul of queries and keys, and that of the softmax and the values."""
    ours = [node for node in graph.of_module[name] if node.op_type in ("MatMul", "Softmax")]
    if [node.op_type for node in ours] != ["MatMul", "Softmax", "MatMul"]:
        raise SdxlError(
            f"{name} is not two products around a softmax",
            ", ".join(node.op_type for node in ours),
            "an export without a fused attention operator",
        )
    return ours[0], ours[2]


def _factor(nodes: Nodes, tensor: str) -> tuple[float, int]:
    """The constant that a tensor has just been multiplied with (else 1), and its type (else 0)."""
    from onnx import numpy_helper

    maker = nodes.graph.makers.get(tensor)
    if maker is not None and maker.op_type == "Mul":
        for name in maker.input:
            constant = nodes.graph.initializers.get(name)
            if constant is not None and not constant.dims:
                return float(numpy_helper.to_array(constant)), constant.data_type
    return 1.0, 0


def _type(nodes: Nodes, name: str) -> int:
    """The type of a value of this attention: its output projection's weight's."""
    return nodes.graph.initializers[f"{name}.to_out.0.weight"].data_type
