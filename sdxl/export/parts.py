"""The UNet's parts as functions of named tensors: what a shortcut's calls take and leave."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from sdxl.config import graphs
from sdxl.config.schema import Shortcut
from sdxl.config.shortcuts import Cross, Step
from sdxl.model import split
from sdxl.model.kinds import RECORDS
from sdxl.model.parts import Parts

Tensors = dict[str, torch.Tensor]


def prepare(
    module: Any, graph: str, shortcut: Shortcut, inputs: Tensors
) -> tuple[Tensors, tuple[str, ...]]:
    """Make `module.forward` the graph's; returns example inputs and the names of the outputs.

    inputs: of the whole UNet; what earlier calls leave goes before the guidance scale's embedding.
    """
    step = graphs.UNETS[graph]
    parts = Parts(module, shortcut)
    scale = {name: each for name, each in inputs.items() if name == graphs.GUIDANCE}
    plain = {name: each for name, each in inputs.items() if name not in scale}
    taken = {**plain, **_left(parts, step, inputs), **scale}
    module.forward = types.MethodType(_forward(parts, step, tuple(taken)), module)
    made = range(len(parts.gates)) if step.cross is Cross.recorded else ()
    crosses = (f"{graphs.KEPT_CROSS}{place}" for place in made)
    return taken, (*graphs.OUTPUTS[graph], *crosses)


def _left(parts: Parts, step: Step, inputs: Tensors) -> Tensors:
    """What the graph takes of that which a call of the whole UNet leaves."""
    with torch.inference_mode():
        _, feature, crosses = _call(parts, RECORDS, inputs)
    found: Tensors = {} if step.deep else {graphs.FEATURE: feature}
    if step.cross is not Cross.replayed:
        return found
    read = parts.gates
    if not step.deep and parts.branch is not None:
        read = split.gates_above(parts.unet, parts.branch)
    made = enumerate(zip(parts.gates, crosses, strict=True))
    return found | {f"{graphs.CROSS}{n}": each for n, (gate, each) in made if gate in read}


def _forward(parts: Parts, step: Step, names: tuple[str, ...]) -> Callable[..., Any]:
    def forward(_module: Any, *tensors: torch.Tensor) -> Any:
        noise, feature, made = _call(parts, step, dict(zip(names, tensors, strict=True)))
        return (noise, *([feature] if step.keeps else []), *made)

    return forward


def _call(parts: Parts, step: Step, given: Tensors) -> tuple[Any, Any, Any]:
    """The noise, the feature, and what the cross-attentions made if they record."""
    crosses = tuple(given.get(f"{graphs.CROSS}{place}") for place in range(len(parts.gates)))
    return parts.run(
        given["sample"], given["timestep"], given.get(graphs.FEATURE), crosses,
        given["encoder_hidden_states"], given["text_embeds"], given["time_ids"],
        given.get(graphs.GUIDANCE), cross=step.cross,
    )  # fmt: skip
