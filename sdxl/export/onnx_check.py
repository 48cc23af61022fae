"""Is a graph valid, strongly typed, and whole? Read from the file; weights stay on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, shape_inference

from sdxl.config import graphs
from sdxl.core.errors import SdxlError
from sdxl.export.modules import Exportable

PIECE = 32
"""Latents, in each direction, that a 16-bit VAE is tried on: overflow does not ask for more."""
PASSED = ("DequantizeLinear", "QuantizeLinear", "Transpose", "Cast", "Reshape")
FORMATS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.FLOAT8E4M3FN: "fp8",
}


def check(folder: Path, linked: bool = False) -> dict[str, Any]:
    """Facts of the graph; raises `SdxlError` where the checker or the typing rule object.

    linked: its weights lie in a file of several hard links, which the checker would refuse.
    """
    path = folder / graphs.MODEL
    model = onnx.load(path, load_external_data=False)
    try:
        onnx.checker.check_model(shell(model) if linked else str(path), full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise SdxlError("the exported graph is not valid ONNX", str(error)[:500]) from error
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    if mixed := mixed_types(inferred):
        raise SdxlError(
            "the graph is not strongly typed", "; ".join(mixed[:5]), "one type for each operator"
        )
    return {
        "nodes": len(model.graph.node),
        "layers": layer_formats(model),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "weights": sum(_size(tensor) for tensor in model.graph.initializer),
        "inputs": {value.name: _shape(value) for value in model.graph.input},
        "outputs": {value.name: _shape(value) for value in model.graph.output},
    }


def shell(model: Any) -> Any:
    """The model with the weights that lie in files as inputs."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    inline = [t for t in found.graph.initializer if not t.external_data]
    for tensor in found.graph.initializer:
        if tensor.external_data:
            found.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in inline]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    return found


def mixed_types(model: Any) -> list[str]:
    """Nodes whose inputs disagree where the operator wants one type, from inferred types."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    found = []
    for node in graph.node:
        if node.domain not in opsets or not onnx.defs.has(node.op_type, node.domain):
            continue
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
        bound: dict[str, set[int]] = {}
        for place, name in enumerate(node.input):
            formal = schema.inputs[min(place, len(schema.inputs) - 1)]
            if name and types.get(name):
                bound.setdefault(formal.type_str, set()).add(types[name])
        for kinds in bound.values():
            if len(kinds) > 1:
                names = " and ".join(sorted(TensorProto.DataType.Name(kind) for kind in kinds))
                found.append(f"{node.op_type} {node.name} has {names}")
    return found


def layer_formats(model: Any) -> dict[str, int]:
    """How many layers with weights (Conv, Gemm, MatMul) the graph has in each number format.

    A layer counts as 8-bit if both its input and its weight come out of a DequantizeLinear.
    """
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight, weight_codes = _origin(node.input[1], makers)
            _, input_codes = _origin(node.input[0], makers)
            if weight not in types:
                continue  # a product of activations
            name = FORMATS.get(types[weight], "other")
            if weight_codes:
                code = FORMATS.get(types.get(weight_codes, 0), "8-bit")
                name = code if input_codes else f"{code} weights"
            counts[name] += 1
    return dict(counts.most_common())


def _origin(value: str, makers: dict[str, Any]) -> tuple[str, str]:
    """The value behind Q/DQ, transposes and casts, and the zero point of its codes, if any."""
    codes = ""
    while (node := makers.get(value)) is not None and node.op_type in PASSED:
        if node.op_type == "DequantizeLinear":
            codes = node.input[2] if len(node.input) > 2 else node.input[0]
        value = node.input[0]
    return value, codes


def decodes(network: Exportable) -> None:
    """Decode a piece of random latents with torch; raises `SdxlError` if no picture comes out."""
    latents = network.inputs[0][:1, :, :PIECE, :PIECE]
    with torch.inference_mode():
        image = network.module(latents).float()
    if not torch.isfinite(image).all() or image.min() == image.max():
        raise SdxlError(
            "the VAE draws NaN, Inf or one colour in 16 bits",
            str(latents.dtype).removeprefix("torch."),
            "a picture",
            "precision.vae=fp32",
        )


def _size(tensor: Any) -> int:
    size = 1
    for length in tensor.dims:
        size *= length
    return size


def _shape(value: Any) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]
