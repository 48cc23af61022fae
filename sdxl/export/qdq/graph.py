"""An ONNX graph under edit: who makes a tensor, who reads it, whose module it is, what goes in."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the path of modules, outermost first, then the operation."""


class Graph:
    """A `ModelProto`'s graph; edits take effect with `finish`."""

    def __init__(self, model: Any) -> None:
        self.proto = model.graph
        self.nodes = list(self.proto.node)
        self.initializers: dict[str, Any] = {t.name: t for t in self.proto.initializer}
        self.makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        self.of_module: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            self.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers[name].append(node)
            self.of_module[module_of(node)].append(node)
        self.added: list[Any] = []
        self._before: dict[int, list[Any]] = defaultdict(list)
        self._gone: set[int] = set()

    def add(self, before: Any, kind: str, inputs: list[str], output: str, **settings: Any) -> str:
        """A new node just before `before`, with its module path; returns `output`."""
        node = helper.make_node(kind, inputs, [output], name=output, **settings)
        node.metadata_props.extend(before.metadata_props)
        self._before[id(before)].append(node)
        self.added.append(node)
        return output

    def constant(self, name: str, values: Any, data_type: int | None = None) -> str:
        """A new initializer in the graph's own file; returns its name."""
        array = np.asarray(values)
        if data_type is not None:
            array = array.astype(helper.tensor_dtype_to_np_dtype(data_type))
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def external(
        self, name: str, data_type: int, dims: list[int], file: str, place: tuple[int, int]
    ) -> str:
        """A new initializer that lies in `file` at (offset, length); returns its name."""
        tensor = TensorProto(name=name, data_type=data_type, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", place[0]), ("length", place[1])):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers[name] = tensor
        return name

    def reshaped(self, name: str, dims: list[int]) -> str:
        """The same numbers as initializer `name` under other dimensions; returns the new name."""
        new = f"{name}/{'x'.join(str(size) for size in dims)}"
        tensor = TensorProto()
        tensor.CopyFrom(self.initializers[name])
        tensor.name = new
        del tensor.dims[:]
        tensor.dims.extend(dims)
        self.initializers[new] = tensor
        return new

    def remove(self, node: Any) -> None:
        """Leave a node out; something added before it makes its output."""
        self._gone.add(id(node))

    def finish(self) -> None:
        """Write nodes and the initializers that are still read back into the model."""
        nodes = []
        for node in self.nodes:
            nodes += self._before[id(node)]
            if id(node) not in self._gone:
                nodes.append(node)
        read = {name for node in nodes for name in node.input}
        read |= {value.name for value in self.proto.output}
        kept = [tensor for name, tensor in self.initializers.items() if name in read]
        # Copies, because clearing a repeated field frees what it held.
        nodes = [_copy(node) for node in nodes]
        kept = [_copy(tensor) for tensor in kept]
        del self.proto.node[:]
        self.proto.node.extend(nodes)
        del self.proto.initializer[:]
        self.proto.initializer.extend(kept)
        known = {value.name for value in self.proto.value_info}
        made = {name for node in nodes for name in node.output}
        for name in known - made:  # of nodes that went
            self._forget(name)

    def _forget(self, name: str) -> None:
        place = next(i for i, value in enumerate(self.proto.value_info) if value.name == name)
        del self.proto.value_info[place]


def module_of(node: Any) -> str:
    """Path of the module whose forward made the node; empty if unknown."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = ast.literal_eval(entry.value)
            return scopes[-2] if len(scopes) > 1 else ""
    return ""


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
