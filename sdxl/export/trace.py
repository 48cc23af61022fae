"""A network's graph without its weights, kept by architecture.

Tracing and simplifying take most of an export, and see no weight: another checkpoint, LoRA or
seed of the same architecture reads the graph of the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sdxl.config import content_key
from sdxl.core import store
from sdxl.export import onnx_graph
from sdxl.export.modules import Exportable
from sdxl.export.onnx_graph import Tell

KIND = "trace"
FILE = "graph.onnx"
_ORDER = "initializers"
"""Of the values in a whole graph's file: a kept graph's is to be the same."""


def get(settings: Mapping[str, Any], source: Exportable, opset: int, tell: Tell) -> ir.Model:
    """The graph, found in the store or traced now; its weights are initializers without values.

    settings: what decides the graph beside the architecture (`onnx.settings`).
    """

    def build(folder: Path) -> dict[str, Any]:
        save(onnx_graph.trace(source, opset, tell), folder / FILE)
        return {"settings": dict(settings)}

    found = store.get(KIND, key(settings, source, opset), build, settings=dict(settings))
    return load(found.path / FILE, len(source.names))


def key(settings: Mapping[str, Any], source: Exportable, opset: int) -> str:
    """Content key over all that a tracing sees: the architecture, shapes of weights and inputs."""
    config = getattr(source.module, "config", {})
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return content_key.key(
        KIND,
        {name: value for name, value in settings.items() if name != "weights_of"},
        opset,
        type(source.module).__name__,
        {name: value for name, value in plain.items() if not name.startswith("_")},  # its origin
        {name: _looks(weight) for name, weight in source.module.state_dict().items()},
        {name: _looks(each) for name, each in zip(source.names, source.inputs, strict=True)},
        source.outputs,
    )


def save(model: ir.Model, file: Path) -> None:
    """Write the graph, its weights as further inputs: an initializer is written with its values."""
    known = model.graph.initializers
    model.metadata_props[_ORDER] = json.dumps(list(known))
    for name, value in list(known.items()):
        if value.const_value is None:
            del known[name]
            model.graph.inputs.append(value)
    ir.save(model, file)


def load(file: Path, inputs: int) -> ir.Model:
    """What `save` was given; `inputs`: how many are none of its weights."""
    model = ir.load(file)
    known, weights = model.graph.initializers, model.graph.inputs[inputs:]
    values = {each.name: each for each in (*weights, *known.values())}
    del model.graph.inputs[inputs:]
    known.clear()
    for name in json.loads(model.metadata_props.pop(_ORDER)):
        known.add(values[name])
    return model


def _looks(tensor: Any) -> list[Any]:
    return [str(tensor.dtype), list(tensor.shape)]
