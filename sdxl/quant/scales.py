"""From statistics to scales: arithmetic only, no model runs here.

How amax is combined: within a step over calibration calls (`calls`), then over the first
`percentile` of the steps (`steps`). The peers' rules, all called "percentile":
  AMMO, demoDiffusion for TensorRT 9.3:  calls=max, steps=min, Linear inputs too
  NVIDIA MLPerf v4.0:                    calls=min, steps=min, Linear inputs too
  NeMo 2.2, demoDiffusion 11:            calls=sum_over_steps, steps=min, convolutions only
  ModelOpt's example, default:           calls=max, steps=max, percentile ignored
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from sdxl.config import schema
from sdxl.config.schema import Calls, Format, Steps
from sdxl.core.errors import UserError
from sdxl.quant.collect import PARTS
from sdxl.quant.levels import Kind, Layer
from sdxl.quant.statistics import Statistics

CLAMP = (1e-4, 1e4)
"""Smallest and largest SmoothQuant factor (ModelOpt's `smoothquant`)."""

DEAD = 1.0 / (1 << 31)
"""A channel whose amax is no larger has carried nothing: it is not smoothed."""


@dataclass
class LayerScales:
    """What a layer's activations need.

    input_amax: 0-d, of the whole input after smoothing; smooth: (in_features,) factors that the
    input is multiplied with and the weight divided by; parts: 0-d amax of q, k, v, softmax.
    """

    input_amax: torch.Tensor | None = None
    smooth: torch.Tensor | None = None
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


def over_calls(amax: torch.Tensor, rule: Calls) -> torch.Tensor:
    """(calls, steps) -> (steps,)."""
    if rule is Calls.max:
        return amax.amax(0)
    if rule is Calls.min:
        return amax.amin(0)
    divisor = amax.shape[0] if rule is Calls.mean else amax.shape[1]
    return (amax.double().sum(0) / divisor).to(amax.dtype)


def over_steps(
    amax: torch.Tensor, rule: Steps, fraction: float, ran: torch.Tensor | None = None
) -> torch.Tensor:
    """(steps, ...) -> (...) over the first `fraction` of the steps, of those that `ran` (steps,).

    Raises `UserError` if that is no step.
    """
    count = int(len(amax) * fraction)
    if not 0 < count <= len(amax):
        raise UserError(
            "`percentile` leaves no denoising step to calibrate on",
            f"{fraction:g} of {len(amax)} steps",
            "(0, 1], and at least one step",
        )
    first = amax[:count] if ran is None else amax[:count][ran[:count]]
    if rule is Steps.max:
        return first.amax(0)
    if rule is Steps.min:
        return first.amin(0)
    return first.double().mean(0).to(amax.dtype)


def tensor_amax(statistics: Statistics, name: str, quant: schema.Quant) -> torch.Tensor:
    """0-d amax of a convolution's input by the recipe's rule."""
    per_step = over_calls(statistics.tensor(name), quant.calls)
    return over_steps(per_step, quant.steps, quant.percentile, statistics.ran(name))


def channel_amax(statistics: Statistics, name: str, quant: schema.Quant) -> torch.Tensor:
    """amax (in_features,) of a Linear's input; plain maximum unless `linear_ranges`."""
    if not quant.linear_ranges:
        return statistics.channel(name).amax(0)
    assert quant.calls in (Calls.max, Calls.min), quant.calls
    per_step = statistics.channel(name, smallest=quant.calls is Calls.min)
    return over_steps(per_step, quant.steps, quant.percentile, statistics.ran(name))


def linear_amax(statistics: Statistics, name: str, quant: schema.Quant) -> torch.Tensor:
    """0-d amax of a Linear's input that is not smoothed."""
    if not quant.linear_ranges:
        return statistics.channel(name).amax()
    assert quant.calls is Calls.max, "minima of channels do not give minima of tensors"
    per_step = statistics.channel(name).amax(-1)
    return over_steps(per_step, quant.steps, quant.percentile, statistics.ran(name))


def smooth_factors(weight: torch.Tensor, amax: torch.Tensor, alpha: float) -> torch.Tensor:
    """SmoothQuant's factors (in_features,) in fp32: wmax^(1-alpha) / amax^alpha, clamped.

    `weight` (out, in) in the model's dtype; `amax` (in,) of the unsmoothed input in fp32. The order
    of operations is ModelOpt 0.47's. One difference: a channel without activations gets 1, where
    ModelOpt means to do so but tests the wrong side and ends at the clamp's 1e4.
    """
    largest = weight.abs().amax(dim=0)
    factors = largest.pow(1 - alpha) / amax.float().pow(alpha)
    factors = torch.where(amax <= DEAD, torch.ones_like(factors), factors)
    return factors.float().clamp(*CLAMP)


def smoothed_amax(amax: torch.Tensor, factors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0-d amax of the smoothed input, in the model's dtype."""
    return (amax.to(dtype) * factors).amax().to(dtype)


def alpha_of(name: str, quant: schema.Quant) -> float:
    """The recipe's alpha, or 1.0 where `alpha_only` leaves the layer out."""
    if quant.alpha_only and not re.search(quant.alpha_only, name):
        return 1.0
    return quant.alpha


def scales_of(
    layer: Layer, weight: torch.Tensor | None, statistics: Statistics | None, quant: schema.Quant
) -> LayerScales:
    """The scales of one layer; `weight` is its unquantized weight (None for attention)."""
    if quant.format.weight_only:
        return LayerScales()
    assert statistics is not None
    if layer.kind is Kind.attention:
        parts = {
            part: over_steps(statistics.tensor(f"{layer.name}:{part}").amax(0), Steps.max, 1.0)
            for part in PARTS
        }
        return LayerScales(parts=parts)
    assert weight is not None
    if layer.kind is Kind.conv:
        return LayerScales(tensor_amax(statistics, layer.name, quant).to(weight.dtype))
    if quant.format is Format.int8 and quant.smooth:
        amax = channel_amax(statistics, layer.name, quant).to(weight.device)
        factors = smooth_factors(weight, amax, alpha_of(layer.name, quant))
        return LayerScales(smoothed_amax(amax, factors, weight.dtype), factors)
    return LayerScales(linear_amax(statistics, layer.name, quant).to(weight.dtype))


def check_fits(statistics: Statistics, unet: Any, layers: Iterable[Layer]) -> None:
    """Raise `UserError` if the statistics do not know a layer, or know another width."""
    known = set(statistics.tensors)
    missing = []
    for layer in layers:
        if layer.kind is Kind.linear:
            columns = statistics.channels.get(layer.name)
            wide = unet.get_submodule(layer.name).in_features
            fits = columns is not None and columns.stop - columns.start == wide
        elif layer.kind is Kind.attention:
            fits = all(f"{layer.name}:{part}" in known for part in PARTS)
        else:
            fits = layer.name in known
        if not fits:
            missing.append(layer.name)
    if missing:
        raise UserError(
            "the statistics are of another model",
            f"{len(missing)} layers unknown or of another width: {', '.join(missing[:5])}",
            "statistics of this UNet",
            "quant.statistics=null   # calibrates this model",
        )
