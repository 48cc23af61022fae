"""A graph of two convolutions and two products, in 16 or 8 bits: an engine of it takes a second."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sdxl.config import graphs
from sdxl.core import store
from sdxl.core.store import Artifact
from sdxl.core.types import Manifest

ZERO = {"int8": (TensorProto.INT8, 127), "fp8": (TensorProto.FLOAT8E4M3FN, 448)}
CHANNELS = 32


def write(folder: Path, kind: str = "fp16", opset: int = 20, rows: int | str = "rows") -> Path:
    """`folder/model.onnx`: `sample` -> `noise`, both (rows, 4, 16, 16) fp16; three layers in 8 bits
    where `kind` is int8 or fp8."""
    random = np.random.default_rng(0)
    nodes, initializers = [], []

    def weight(name, *shape):
        values = (random.standard_normal(shape) * 0.1).astype(np.float16)
        initializers.append(numpy_helper.from_array(values, name))
        return name

    def quantized(tensor, name, axis=None, count=1):
        if kind == "fp16":
            return tensor
        code, largest = ZERO[kind]
        per_channel = axis is not None and kind == "int8"
        shape = [count] if per_channel else []
        scale = np.full(shape, 1 / largest, np.float16)
        initializers.append(numpy_helper.from_array(scale, f"{name}_scale"))
        zeros = bytes(count if per_channel else 1)
        initializers.append(helper.make_tensor(f"{name}_zero", code, shape, zeros, raw=True))
        words = {"axis": axis} if per_channel else {}
        inputs = [f"{name}_scale", f"{name}_zero"]
        for op, source, target in (
            ("QuantizeLinear", tensor, f"{name}_q"),
            ("DequantizeLinear", f"{name}_q", f"{name}_dq"),
        ):
            nodes.append(helper.make_node(op, [source, *inputs], [target], f"{name}_{op}", **words))
        return f"{name}_dq"

    def layer(op, source, target, name, *shape, eight_bits=True, axis=0, **words):
        inputs = [source, weight(f"{name}.weight", *shape)]
        if eight_bits:
            inputs = [
                quantized(source, f"{name}_input"),
                quantized(f"{name}.weight", f"{name}_weight", axis, shape[axis]),
            ]
        nodes.append(helper.make_node(op, inputs, [target], name, **words))

    def transpose(source, target, *order):
        nodes.append(helper.make_node("Transpose", [source], [target], target, perm=order))

    pads = [1, 1, 1, 1]
    layer("Conv", "sample", "a", "conv_in", CHANNELS, 4, 3, 3, eight_bits=False, pads=pads)
    nodes.append(helper.make_node("Relu", ["a"], ["b"], "relu"))
    layer("Conv", "b", "c", "conv", CHANNELS, CHANNELS, 3, 3, pads=pads)
    transpose("c", "d", 0, 2, 3, 1)
    layer("MatMul", "d", "e", "first", CHANNELS, 64, axis=1)
    layer("MatMul", "e", "f", "second", 64, 4, axis=1)
    transpose("f", "noise", 0, 3, 1, 2)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, [rows, 4, 16, 16])
        for name in ("sample", "noise")
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / graphs.MODEL)
    return folder


def artifact(folder: Path) -> Artifact:
    """The graph as the store would hand it out."""
    file = folder / graphs.MODEL
    files = {file.name: {"sha256": store.sha256(file), "bytes": file.stat().st_size}}
    return Artifact(folder, Manifest("onnx", folder.name, {}, files=files))
