"""Which nodes a quantized layer needs, and where they go."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sdxl.config.choices import Convolutions
from sdxl.config.schema import Format
from sdxl.export.qdq import attention, convolution
from sdxl.export.qdq.nodes import Nodes, transposed
from sdxl.export.qdq.options import Layout, Options
from sdxl.model.checkpoint import Checkpoint, StoredLayer


class Edit(Nodes):
    """The edit of one graph; `run` once."""

    def __init__(self, model: Any, stored: Checkpoint, options: Options) -> None:
        super().__init__(model, stored, options)
        self.expected: dict[str, StoredLayer] = {
            name: layer
            for name, layer in stored.layers.items()
            if layer.kind != "conv" or options.convolutions is not Convolutions.float
        }

    def run(self) -> None:
        """Insert the nodes of every layer; raises `SdxlError` if one does not fit the graph."""
        for layer in self._in_order():
            if layer.kind == "attention":
                attention.quantize(self, layer)
                continue
            node = self.reader(layer)
            if self._as_product(layer):
                convolution.as_product(self, layer, node)
                continue
            if not layer.weight_only:
                node.input[0] = self.input(layer, node)
            transpose = transposed(node)
            node.input[1] = self.weight(layer, node, [1, 0] if transpose else None)
            if transpose and self.options.layout is Layout.integer:
                self.keep_apart(node)
        self.graph.finish()

    def counts(self) -> dict[str, Any]:
        """Layers by kind, layers left unquantized, new nodes by operator, inputs shared."""
        return {
            "layers": dict(Counter(layer.kind for layer in self.expected.values())),
            "left_float": len(self.stored.layers) - len(self.expected),
            "nodes": dict(Counter(node.op_type for node in self.graph.added)),
            "shared_inputs": self.shared_inputs,
        }

    def _in_order(self) -> list[StoredLayer]:
        """Layers as the graph computes them: a chain that some share stands before the first."""
        places = {name: at for at, node in enumerate(self.graph.nodes) for name in node.input}
        return sorted(self.expected.values(), key=lambda x: places.get(f"{x.name}.weight", -1))

    def _as_product(self, layer: StoredLayer) -> bool:
        """Whether it is a convolution to be written as a product: a matter of INT8 inputs."""
        wanted = self.options.convolutions is Convolutions.product
        return wanted and layer.kind == "conv" and layer.format is Format.int8
