"""A quantized convolution as a product of patches: 8-bit kernels where a runtime has none for it.

The patches are cut from the *quantized* input, a quarter of its bytes; zero padding is the code
of zero. Integers, scales and sums are those of the convolution.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from onnx import TensorProto, helper

from sdxl.core.errors import SdxlError
from sdxl.model.checkpoint import StoredLayer

if TYPE_CHECKING:
    from sdxl.export.qdq.nodes import Nodes

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Channels to the last place, and back."""


def as_product(nodes: Nodes, layer: StoredLayer, node: Any) -> None:
    """Replace `node` by slices, one Concat and a MatMul."""
    graph, name = nodes.graph, layer.name
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if settings.get("group", 1) != 1 or any(n != 1 for n in settings.get("dilations", [])):
        raise SdxlError(f"{name} has groups or dilations", expected="a plain convolution")
    height, width = settings["kernel_shape"]
    pads = settings.get("pads", [0, 0, 0, 0])
    steps = settings.get("strides", [1, 1])
    source = node.input[0]

    amax = nodes.stored.tensor(f"{name}.input_amax")
    scale = nodes.scale(layer, f"{name}/input_scale", amax.reshape(()), nodes.type_of(layer))
    zero = nodes.zero(layer)
    found = graph.add(node, "QuantizeLinear", [source, scale, zero], f"{name}/input_quantized")
    found = graph.add(node, "Transpose", [found], f"{name}/input_last", perm=TO_LAST)
    if any(pads):
        around = [0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0]
        amounts = graph.constant(f"pads_{'_'.join(map(str, around))}", around, TensorProto.INT64)
        found = graph.add(node, "Pad", [found, amounts, zero], f"{name}/input_padded")
    if (height, width, *steps) != (1, 1, 1, 1):
        found = _patches(nodes, name, node, found, (height, width), steps)
    found = graph.add(node, "DequantizeLinear", [found, scale, zero], f"{name}/input_dequantized")
    weight = _weight(nodes, layer, node)
    last = graph.add(node, "MatMul", [found, weight], f"{name}/product")
    if len(node.input) > 2:
        channels = graph.initializers[node.input[2]].dims[0]
        bias = graph.reshaped(node.input[2], [1, 1, 1, channels])
        last = graph.add(node, "Add", [last, bias], f"{name}/sum")
    graph.add(node, "Transpose", [last], node.output[0], perm=TO_FIRST)
    graph.remove(node)


def _patches(
    nodes: Nodes, name: str, node: Any, source: str, kernel: tuple[int, int], steps: list[int]
) -> str:
    """(N, H, W, C) -> (N, h, w, kernel * C): what each output pixel sees."""
    graph = nodes.graph
    axes = graph.constant("axes_1_2", [1, 2], TensorProto.INT64)
    stride = graph.constant(f"steps_{steps[0]}_{steps[1]}", steps, TensorProto.INT64)
    cuts = []
    for row, column in itertools.product(range(kernel[0]), range(kernel[1])):
        first = [row, column]
        # To the end, counted from there: height and width may be dynamic.
        last = [_end(at, size) for at, size in zip(first, kernel, strict=True)]
        starts = graph.constant(f"starts_{row}_{column}", first, TensorProto.INT64)
        ends = graph.constant(f"ends_{last[0]}_{last[1]}", last, TensorProto.INT64)
        cut = f"{name}/patch_{row}_{column}"
        cuts.append(graph.add(node, "Slice", [source, starts, ends, axes, stride], cut))
    return graph.add(node, "Concat", cuts, f"{name}/patches", axis=3)


def _end(at: int, size: int) -> int:
    return at - size + 1 if at < size - 1 else (1 << 62)


def _weight(nodes: Nodes, layer: StoredLayer, node: Any) -> str:
    """The kernel as a matrix (kernel * C, O), dequantized; the runtime folds its reordering."""
    graph, name = nodes.graph, f"{layer.name}/weight"
    outputs = nodes.stored.tensor(f"{layer.name}.weight").shape[0]
    found = graph.add(
        node, "Transpose", [nodes.codes(layer)], f"{name}_transposed", perm=[2, 3, 1, 0]
    )
    shape = graph.constant(f"matrix_{outputs}", [-1, outputs], TensorProto.INT64)
    found = graph.add(node, "Reshape", [found, shape], f"{name}_matrix")
    amax = nodes.stored.tensor(f"{layer.name}.weight_amax").flatten()
    scale = nodes.scale(layer, f"{name}_scale", amax, nodes.type_of(layer))
    return graph.add(node, "DequantizeLinear", [found, scale], f"{name}_dequantized", axis=1)
