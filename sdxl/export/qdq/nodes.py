"""What the nodes of a quantized layer are made of: scales, codes, zero points, round trips."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from sdxl.config.schema import Format
from sdxl.core.errors import SdxlError, UserError
from sdxl.export.qdq.graph import Graph, module_of
from sdxl.export.qdq.options import Layout, Options
from sdxl.model import codes
from sdxl.model.checkpoint import WEIGHTS, Checkpoint, StoredLayer

CODES = {
    Format.int8: TensorProto.INT8,
    Format.int8_weight_only: TensorProto.INT8,
    Format.int4_weight_only: TensorProto.INT4,
    Format.fp8: TensorProto.FLOAT8E4M3FN,
}
BOUND = {
    Format.int8: 127.0,
    Format.int8_weight_only: 127.0,
    Format.int4_weight_only: 7.0,
    Format.fp8: 448.0,
}
"""The code of amax."""
PRECISE = 0.01
"""Largest relative error of a scale in the graph's own type: below fp16's normal range it grows."""
UNSIGNED_ZERO = 128
"""uint8 code of zero: the integers of int8, shifted."""
BLOCK_OPSET = 21


class Nodes:
    """Adds the parts of quantized layers to one graph."""

    def __init__(self, model: Any, stored: Checkpoint, options: Options) -> None:
        self.graph, self.stored, self.options = Graph(model), stored, options
        self.opset = next(o.version for o in model.opset_import if not o.domain)
        self._inputs: dict[tuple[Any, ...], str] = {}
        self.shared_inputs = 0

    def type_of(self, layer: StoredLayer) -> int:
        """The type of the graph's numbers around a layer: that of its float weight."""
        return self.graph.initializers[f"{layer.name}.weight"].data_type

    def input(self, layer: StoredLayer, node: Any) -> str:
        """The layer's input smoothed, quantized, dequantized; one chain for equal ones."""
        source, name, data_type = node.input[0], f"{layer.name}/input", self.type_of(layer)
        factors = self.stored.get(layer.name, "pre_quant_scale")
        amax = self.stored.tensor(f"{layer.name}.input_amax")
        smooth = None if factors is None else factors.float().numpy()
        key = (source, layer.format, float(amax), smooth is not None and smooth.tobytes())
        if key in self._inputs:
            self.shared_inputs += 1
            return self._inputs[key]
        if smooth is not None:
            factor = self.graph.constant(f"{name}_factors", smooth, data_type)
            source = self.graph.add(node, "Mul", [source, factor], f"{name}_smoothed")
        self._inputs[key] = self.round_trip(node, layer, source, name, amax, data_type)
        return self._inputs[key]

    def round_trip(
        self, node: Any, layer: StoredLayer, source: str, name: str, amax: torch.Tensor, kind: int
    ) -> str:
        """`source` through QuantizeLinear and DequantizeLinear, per tensor, before `node`."""
        scale = self.scale(layer, f"{name}_scale", amax.reshape(()), kind)
        zero = self.zero(layer)
        codes = self.graph.add(node, "QuantizeLinear", [source, scale, zero], f"{name}_quantized")
        return self.graph.add(node, "DequantizeLinear", [codes, scale, zero], f"{name}_dequantized")

    def zero(self, layer: StoredLayer) -> str:
        """The zero point of inputs, which also says the type of their codes."""
        if layer.format is Format.int8 and self.options.layout is Layout.integer:
            return self.graph.constant("zero_uint8", UNSIGNED_ZERO, TensorProto.UINT8)
        return self.graph.constant(f"zero_{layer.format.value}", 0, CODES[layer.format])

    def weight(self, layer: StoredLayer, node: Any, order: list[int] | None) -> str:
        """The dequantized weight from the checkpoint's codes, transposed by `order` if given."""
        graph, name = self.graph, f"{layer.name}/weight"
        quantized = self.codes(layer)
        amax = self.stored.tensor(f"{layer.name}.weight_amax")
        settings: dict[str, Any] = {}
        axis = 0
        if order and self.options.layout is Layout.integer and not layer.block_size:
            quantized = graph.add(node, "Transpose", [quantized], f"{name}_transposed", perm=order)
            order, axis = None, 1
        if layer.block_size:
            amax = amax.reshape(len(amax), -1)
            settings = {"axis": 1, "block_size": layer.block_size}
        elif amax.numel() == 1:
            amax = amax.reshape(())
        else:
            amax = amax.flatten()
            settings = {"axis": axis}
        scale = self.scale(layer, f"{name}_scale", amax, self.type_of(layer))
        found = graph.add(
            node, "DequantizeLinear", [quantized, scale], f"{name}_dequantized", **settings
        )
        if order:
            found = graph.add(node, "Transpose", [found], f"{name}_transposed", perm=order)
        return found

    def codes(self, layer: StoredLayer) -> str:
        """The checkpoint's codes of a weight as an initializer that lies in its file."""
        name = f"{layer.name}.weight"
        shape = list(self.stored.tensor(name).shape)
        if layer.format is Format.int4_weight_only:
            if self.opset < BLOCK_OPSET:
                raise UserError(
                    "INT4 weights need a newer opset", str(self.opset), f"{BLOCK_OPSET} or more",
                    "export.opset=null",
                )  # fmt: skip
            if layer.in_features % layer.block_size:
                raise UserError(
                    "ONNX has no INT4 blocks that do not divide the width of a layer",
                    f"quant.block_size={layer.block_size}, {layer.name} has {layer.in_features}",
                    "a divisor", "quant.block_size=32",
                )  # fmt: skip
            shape = [shape[0], layer.in_features]
        return self.graph.external(
            f"{layer.name}/weight_codes", CODES[layer.format], shape, WEIGHTS,
            self.stored.place(name),
        )  # fmt: skip

    def scale(self, layer: StoredLayer, name: str, amax: torch.Tensor, data_type: int) -> str:
        """amax / bound as a constant of the graph's type; 1 where everything is 0."""
        wide = amax.float()
        exact = torch.where(
            wide <= codes.TINY, torch.ones_like(wide), wide / BOUND[layer.format]
        ).numpy()
        constant = self.graph.constant(name, exact, data_type)
        held = _values(self.graph.initializers[constant])
        if np.abs(held / exact - 1).max() > PRECISE:
            raise SdxlError(
                f"a scale of {layer.name} is too small for the graph's number format",
                f"{exact.min():.3g}", "a wider one", "precision.unet=fp32",
            )  # fmt: skip
        return constant

    def reader(self, layer: StoredLayer) -> Any:
        """The node that reads the layer's weight."""
        name = f"{layer.name}.weight"
        readers = self.graph.readers.get(name, [])
        if len(readers) != 1 or module_of(readers[0]) != layer.name:
            raise SdxlError(
                "the checkpoint is of another model",
                f"{name} is read by {len(readers)} nodes: {[node.name for node in readers]}",
                f"one node of module {layer.name}",
            )
        node = readers[0]
        theirs = list(self.graph.initializers[name].dims)
        ours = list(self.stored.tensor(name).shape)
        if layer.format is Format.int4_weight_only:
            ours = [ours[0], layer.in_features]
        if theirs != (ours[::-1] if transposed(node) else ours):
            raise SdxlError("the checkpoint is of another model", f"{name} is {ours}", f"{theirs}")
        return node

    def keep_apart(self, node: Any) -> None:
        """Give the bias after a MatMul as many dimensions as its output.

        ONNX Runtime would else join both into one Gemm first, which it then runs in floats.
        """
        for reader in self.graph.readers[node.output[0]]:
            for place, name in enumerate(reader.input):
                tensor = self.graph.initializers.get(name)
                if reader.op_type == "Add" and tensor is not None and len(tensor.dims) == 1:
                    reader.input[place] = self.graph.reshaped(name, [1, 1, *tensor.dims])


def transposed(node: Any) -> bool:
    """Whether the graph holds the matrix the other way round than the checkpoint."""
    return node.op_type == "MatMul"


def _values(tensor: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor).astype(np.float32)
