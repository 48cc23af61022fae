"""Which layers a quantization level selects, and what share of the UNet that is.

NVIDIA's table (NeMo 2.2, demoDiffusion, MLPerf v4.0): each level adds to the one below. Upstream
ModelOpt lost it in 0.35. A selection is a list of exact module names, never a wildcard: wildcards
also catch LayerNorm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from sdxl.config import schema
from sdxl.config.schema import Format
from sdxl.core.errors import UserError
from sdxl.model import networks

LEVELS: tuple[tuple[float, str, str], ...] = (
    (1.0, "conv", r""),
    (2.0, "linear", r"ff\.net"),
    (2.5, "linear", r"to_[qkv](\.|$)"),
    (3.0, "linear", r""),
    (4.0, "attention", r""),
)
"""(level, kind of layer, pattern that its name contains): what the level adds."""

NVIDIA_EXCLUDED = (
    "time_emb_proj",
    "time_embedding",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "add_embedding",
)
"""Layers that every NVIDIA recipe for SDXL leaves alone; small, and first or last in line."""

HEAD_SIZE_MULTIPLE = 16
"""FP8 attention kernels need head sizes that are multiples of this (TensorRT 10)."""


class Kind(str, Enum):
    """What a quantizable module is."""

    conv = "conv"
    linear = "linear"
    attention = "attention"


@dataclass(frozen=True)
class Layer:
    """A module that can be quantized: its weights and its multiply-accumulates per image row."""

    name: str
    kind: Kind
    weights: int
    macs: int = 0


@dataclass(frozen=True)
class LevelRow:
    """What a level selects; shares of all parameters and of all multiply-accumulates."""

    level: float
    conv: int
    linear: int
    attention: int
    parameter_share: float
    mac_share: float


def layers_of(unet: nn.Module, macs: dict[str, int] | None = None) -> list[Layer]:
    """Every quantizable module in the order of the network; attention only where FP8 can run it."""
    from diffusers.models.attention_processor import Attention

    macs = macs or {}
    found = []
    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d):
            kind, weights = Kind.conv, module.weight.numel()
        elif isinstance(module, nn.Linear):
            kind, weights = Kind.linear, module.weight.numel()
        elif isinstance(module, Attention):
            if (module.inner_dim // module.heads) % HEAD_SIZE_MULTIPLE:
                continue
            kind, weights = Kind.attention, 0
        else:
            continue
        found.append(Layer(name, kind, weights, macs.get(name, 0)))
    return found


def select(layers: Iterable[Layer], quant: schema.Quant) -> list[Layer]:
    """The layers of `quant.level`, without `exclude`, with `include`.

    INT4 blocks run along a Linear's input, so INT4 takes no convolutions. Raises `UserError` if an
    `include` pattern matches nothing, or if nothing is left.
    """
    layers = list(layers)
    names = [layer.name for layer in layers]
    for pattern in quant.include:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(
                "`quant.include` matches no layer of this UNet",
                pattern,
                "a regular expression found in a module path",
                "python quantize.py plan=true   # lists the layers",
            )
    chosen = []
    for layer in layers:
        allowed = layer.kind is not Kind.attention or quant.format is Format.fp8
        allowed &= layer.kind is not Kind.conv or quant.format is not Format.int4_weight_only
        wanted = in_level(layer, quant.level) and not _matches(quant.exclude, layer.name)
        if allowed and (wanted or _matches(quant.include, layer.name)):
            chosen.append(layer)
    if not chosen:
        raise UserError(
            "this recipe selects no layer",
            f"quant_level={quant.level:g} quant.exclude={quant.exclude}",
            "at least one layer",
        )
    return chosen


def in_level(layer: Layer, level: float) -> bool:
    """Whether NVIDIA's table puts the layer at or below this level."""
    return any(
        at <= level and kind == layer.kind.value and re.search(pattern, layer.name)
        for at, kind, pattern in LEVELS
    )


def table(layers: Sequence[Layer], quant: schema.Quant, parameters: int) -> list[LevelRow]:
    """One row per level for this recipe's patterns; a level that they leave empty has none.

    Raises `UserError` if that is the recipe's own level.

    `parameters`: all of the UNet. Weights are counted without biases, which stay unquantized;
    multiply-accumulates are those of convolutions, Linears and both attention products.
    """
    rows = []
    total = sum(layer.macs for layer in layers)
    select(layers, quant)
    for level, _, _ in LEVELS:
        if level == 4 and quant.format is not Format.fp8:
            continue
        at_level = schema.Quant(**{**vars(quant), "level": level})
        try:
            chosen = select(layers, at_level)
        except UserError:
            continue
        kinds = [layer.kind for layer in chosen]
        rows.append(
            LevelRow(
                level,
                kinds.count(Kind.conv),
                kinds.count(Kind.linear),
                kinds.count(Kind.attention),
                sum(layer.weights for layer in chosen) / parameters,
                sum(layer.macs for layer in chosen) / total if total else 0.0,
            )
        )
    return rows


def count_macs(unet: Any, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of each layer for one row of a UNet forward at this picture size.

    `unet` lies on the meta device; both products of an attention count under its own name.
    """
    from diffusers.models.attention_processor import Attention

    macs: dict[str, int] = {}
    shapes: dict[str, torch.Size] = {}

    def hook(name: str) -> Any:
        def record(module: Any, _inputs: Any, output: torch.Tensor) -> None:
            macs[name] = output.numel() * module.weight[0].numel()
            shapes[name] = output.shape

        return record

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.inference_mode():
        unet(**networks.empty_inputs(unet, 1, height, width))
    for handle in handles:
        handle.remove()
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            queries, keys = shapes[f"{name}.to_q"], shapes[f"{name}.to_k"]
            macs[name] = 2 * queries.numel() * keys[1]
    return macs


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
