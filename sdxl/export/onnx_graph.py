"""From a network to an ONNX file: weights keep their names, layouts and places in memory.

The optimizer never sees a weight: it would fold, copy and rename the small ones, so that the
miniature's graph would differ from the real one's. Matrices are stored as MatMul reads them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from onnxscript import version_converter

from sdxl.config import graphs
from sdxl.core import disk
from sdxl.core.errors import SdxlError
from sdxl.export.modules import Exportable
from sdxl.export.simplify import simplify

Tell = Callable[[str], None]
TORCH_OPSET = 18
"""What torch's translations are written in; higher ones are converted to."""
INLINE_BYTES = 1024
"""Larger tensors leave the graph's own file: shape inference reads the others."""
KEPT = ("namespace", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes")
"""Node metadata that stays: which module a node belongs to."""


def build(
    source: Exportable,
    opset: int,
    tell: Tell = lambda _: None,
    traced: Callable[[Exportable, int, Tell], ir.Model] | None = None,
) -> ir.Model:
    """The network's graph, its weights still torch's own memory; `tell` hears of each step.

    Weights are looked at after the tracing: a network may have their shapes alone before.
    traced: gives the graph without weights, if not by `trace`.
    """
    model = (traced or trace)(source, opset, tell)
    tell("reading weights")
    _give_weights(model, {name: TorchTensor(w, name) for name, w in source.weights().items()})
    return model


def trace(source: Exportable, opset: int, tell: Tell) -> ir.Model:
    """The network's graph, simplified; its weights are initializers without values."""
    tell("tracing")
    with _quiet():
        program = torch.onnx.export(
            source.module,
            source.inputs,
            dynamo=True,
            opset_version=TORCH_OPSET,
            input_names=source.names,
            output_names=source.outputs,
            dynamic_shapes=source.dynamic,
            optimize=False,
            verify=False,
            verbose=False,
        )
    assert program is not None
    tell("simplifying")
    model = program.model
    _hide_weights(model, set(source.module.state_dict()))
    with _quiet():
        version_converter.convert_version(model, opset)
        simplify(model)
    _forget_sources(model)
    return model


def save(model: ir.Model, folder: Path) -> None:
    """Write both files; weights go to the second one at a time, shapes and scalars stay inside."""
    ir.save(
        model,
        folder / graphs.MODEL,
        external_data=graphs.WEIGHTS,
        size_threshold_bytes=INLINE_BYTES,
    )


def save_part(model: ir.Model, folder: Path, whole: Path) -> None:
    """Write a graph whose weights lie in another's file, which is hard-linked beside it.

    Raises `SdxlError` for a weight that the graph in `whole` has not.
    """
    theirs = ir.load(whole / graphs.MODEL).graph.initializers
    for name, value in model.graph.initializers.items():
        weight = value.const_value
        if weight is None or weight.nbytes <= INLINE_BYTES:
            continue
        known = theirs[name].const_value if name in theirs else None
        if not isinstance(known, ir.ExternalTensor) or list(known.shape) != list(weight.shape):
            raise SdxlError("a part of the UNet has a weight of its own", name, f"one of {whole}")
        place, shape = (known.offset, known.length), ir.Shape(list(known.shape))
        value.const_value = ir.ExternalTensor(
            graphs.WEIGHTS, *place, known.dtype, shape=shape, name=name, base_dir=folder
        )
    disk.link(whole / graphs.WEIGHTS, folder / graphs.WEIGHTS)
    ir.save(model, folder / graphs.MODEL)


def _hide_weights(model: ir.Model, names: set[str]) -> None:
    """Take the weights' values away, so that nothing can fold them."""
    for name, value in model.graph.initializers.items():
        if name in names:
            value.const_value = None


def _give_weights(model: ir.Model, weights: dict[str, Any]) -> None:
    """Put the values in, matrices in the layout of their MatMul."""
    initializers = model.graph.initializers
    for node in list(model.graph):
        matrix = node.inputs[0] if node.op_type == "Transpose" else None
        if matrix is not None and matrix.name in weights and len(matrix.uses()) == 1:
            _transpose(node, matrix, weights[matrix.name])
    for name, tensor in weights.items():
        if name in initializers and initializers[name].const_value is None:
            initializers[name].const_value = tensor
    empty = [name for name, value in initializers.items() if value.const_value is None]
    if empty:
        raise SdxlError("weights were lost in the export", " ".join(empty[:5]), "every weight")


def _transpose(node: ir.Node, matrix: ir.Value, tensor: Any) -> None:
    """Replace `Transpose(matrix)` by the matrix stored the other way, made when it is written."""
    order = node.attributes["perm"].as_ints()
    shape = ir.Shape([tensor.shape[axis] for axis in order])
    assert matrix.name
    matrix.const_value = ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(order))),
        dtype=tensor.dtype, shape=shape, name=matrix.name,
    )  # fmt: skip
    matrix.shape = shape
    node.outputs[0].replace_all_uses_with(matrix)
    node.graph.remove(node, safe=True)  # type: ignore[union-attr]


def _forget_sources(model: ir.Model) -> None:
    """Drop the stack traces: they name this machine's folders and would change the file's hash."""
    for node in model.graph:
        for key in [k for k in node.metadata_props if k not in KEPT]:
            del node.metadata_props[key]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings: torchvision is absent, weights are hidden on purpose."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
