"""A layer quantized as a checkpoint's is, from its weight and the range of its input."""

from __future__ import annotations

import torch

from sdxl.backends.torch.layer import Geometry, Input, Layer
from sdxl.config.schema import Format
from sdxl.model import codes


def layer(
    number: Format, weight: torch.Tensor, amax: torch.Tensor, dtype: torch.dtype,
    factors: torch.Tensor | None = None, bias: torch.Tensor | None = None,
    conv: Geometry | None = None, name: str = "layer",
) -> Layer:  # fmt: skip
    """`weight` has been smoothed; `amax`: 0-d fp32, the range of the smoothed input."""
    if number is Format.fp8:
        weight_amax = weight.abs().amax()
        coded, per_unit = codes.fp8_codes(weight, weight_amax), codes.fp8_per_unit(amax)
        unit, own = 1 / codes.fp8_per_unit(weight_amax).reshape(1), float(1 / per_unit)
    else:
        weight_amax = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1))
        coded, per_unit = codes.integer_codes(weight, weight_amax), codes.int8_per_unit(amax)
        unit, own = codes.int8_unit(weight_amax).flatten(), float(codes.int8_unit(amax))
    return Layer(
        name, "conv" if conv else "linear", number, coded, weight_amax, unit, bias,
        Input(amax, factors, per_unit, own), dtype, conv,
    )  # fmt: skip
