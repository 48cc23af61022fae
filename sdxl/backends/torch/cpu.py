"""8-bit arithmetic of a CPU: oneDNN's integer products, or torch's own.

oneDNN wants unsigned activations: a code c is handed over as c + 128 with zero point 128. Signed
ones it takes too, but on AVX-512 they end in a reference kernel that is a thousand times slower.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional

from sdxl.backends.torch.kernels.words import short
from sdxl.backends.torch.layer import Input, Kernel, Layer, extreme
from sdxl.config.schema import Format
from sdxl.model import codes

Residual = torch.Tensor | None

ZERO_POINT = 128

TRIALS = 3
"""Timed calls per candidate; the fastest counts."""

BLOCK_BYTES = 1 << 19
"""Rows are quantized in blocks whose fp32 copy stays in the second-level cache."""


def int8_codes(
    values: torch.Tensor, factors: torch.Tensor | None, per_unit: torch.Tensor
) -> torch.Tensor:
    """INT8 codes (M, K) of values (M, K): smoothed in their own dtype, then scaled and rounded."""
    out = torch.empty(values.shape, dtype=torch.int8)
    rows = max(1, BLOCK_BYTES // (4 * values.shape[1]))
    for part, target in zip(values.split(rows), out.split(rows), strict=True):
        smoothed = part if factors is None else part * factors
        _round_into(target, smoothed, per_unit)
    return out


def geglu_codes(
    hidden: torch.Tensor, factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """INT8 codes (M, K) of value * gelu(gate) for hidden (M, 2K) = value | gate."""
    width = hidden.shape[1] // 2
    out = torch.empty((len(hidden), width), dtype=dtype)
    rows = max(1, BLOCK_BYTES // (4 * width))
    for part, target in zip(hidden.split(rows), out.split(rows), strict=True):
        value, gate = part.chunk(2, dim=-1)
        product = functional.gelu(gate).mul_(value)
        _round_into(target, product if factors is None else product.mul_(factors), per_unit)
    return out


def layer_norm_codes(
    values: torch.Tensor, norm: Any, inputs: list[Input], dtype: torch.dtype
) -> list[torch.Tensor]:
    """INT8 codes (M, K) of norm(values) for each consumer; nobody else may hold them."""
    normed = norm(values)
    return [int8_codes(normed, each.factors, each.per_unit) for each in inputs]


def _round_into(target: torch.Tensor, values: torch.Tensor, per_unit: torch.Tensor) -> None:
    bound = codes.INT_BOUND[8]
    # Through a copy: fp32 values may be the caller's own.
    target.copy_((values.float() * per_unit).round_().clamp_(-bound - 1, bound))


def unsigned(signed: torch.Tensor) -> torch.Tensor:
    """c -> c + 128 in place."""
    return signed.view(torch.uint8).bitwise_xor_(ZERO_POINT)


class OneDnnLinear:
    """u8 x s8 -> s32, scales and bias in the epilogue."""

    name = "onednn_int8"
    takes_codes = True

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        rows = example.numel() // example.shape[-1]
        self.input = layer.input
        self.packed = torch.ops.onednn.qlinear_prepack(layer.codes, [rows, example.shape[-1]])
        self.unit, self.zero = layer.unit, torch.zeros(len(layer.unit), dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.float()
        self.dtype = layer.dtype

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        flat = values.reshape(-1, values.shape[-1])
        coded = int8_codes(flat, self.input.factors, self.input.per_unit)
        found = self.product(coded).view(*values.shape[:-1], -1)
        return found if residual is None else found.add_(residual)

    def product(self, signed: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), which are overwritten, plus a residual."""
        found = torch.ops.onednn.qlinear_pointwise(
            unsigned(signed), self.input.unit, ZERO_POINT, self.packed, self.unit, self.zero,
            self.bias, 1.0, 0, self.dtype, "none", [], "",
        )  # fmt: skip
        return found if residual is None else found.add_(residual)


class IntMm:
    """torch._int_mm and an epilogue of its own."""

    name = "int_mm"
    takes_codes = True

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        self.input, self.dtype = layer.input, layer.dtype
        self.columns = layer.codes.t()
        self.scale = layer.unit * layer.input.unit
        self.bias = None if layer.bias is None else layer.bias.float()

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        flat = values.reshape(-1, values.shape[-1])
        coded = int8_codes(flat, self.input.factors, self.input.per_unit)
        found = self.product(coded).view(*values.shape[:-1], -1)
        return found if residual is None else found.add_(residual)

    def product(self, signed: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        found = torch._int_mm(signed, self.columns).float().mul_(self.scale)
        found = found if self.bias is None else found.add_(self.bias)
        return (found if residual is None else found.add_(residual)).to(self.dtype)


class OneDnnConv:
    """u8 x s8 convolution in channels-last; padding is the zero point."""

    name = "onednn_int8"
    takes_codes = False

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        self.input, self.dtype = layer.input, layer.dtype
        conv = layer.conv
        assert conv is not None
        self.geometry = (conv.stride, conv.padding, conv.dilation, 1)
        self.unit, self.zero = layer.unit, torch.zeros(len(layer.unit), dtype=torch.int32)
        self.packed = torch.ops.onednn.qconv_prepack(
            layer.codes, self.unit, layer.input.unit, ZERO_POINT, *self.geometry,
            list(example.shape),
        )  # fmt: skip
        self.bias = None if layer.bias is None else layer.bias.float()

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output (N, O, h, w), channels-last, plus a residual of its shape."""
        pixels = values.permute(0, 2, 3, 1)
        flat = pixels.reshape(-1, values.shape[1])
        signed = int8_codes(flat, None, self.input.per_unit)
        image = unsigned(signed).view(pixels.shape).permute(0, 3, 1, 2)
        found = torch.ops.onednn.qconv2d_pointwise(
            image, self.input.unit, ZERO_POINT, self.packed, self.unit, self.zero, self.bias,
            *self.geometry, 1.0, 0, self.dtype, "none", [], "",
        )  # fmt: skip
        return found if residual is None else found.add_(residual)


CANDIDATES: dict[str, tuple[type[Kernel], ...]] = {
    "linear": (OneDnnLinear, IntMm),
    "conv": (OneDnnConv,),
}
"""By kind of layer."""


def usable(
    kind: str, number: Format, device: torch.device, refused: dict[str, str] | None = None
) -> list[type[Kernel]]:
    """The candidates that compute a layer of extreme codes exactly on this processor.

    Without VNNI, oneDNN adds pairs of products in 16 bits, which overflow. `refused` gets the
    others by name, with what they raised.
    """
    found = []
    for candidate in CANDIDATES[kind]:
        layer, values, expected = extreme(kind, number, device)
        try:
            exact = torch.allclose(candidate(layer, values)(values), expected, rtol=1e-6)
        except (RuntimeError, AttributeError, NotImplementedError) as error:  # not in this torch
            exact, reason = False, short(error)
        else:
            reason = "its sums overflow"
        if exact:
            found.append(candidate)
        elif refused is not None:
            refused[candidate.name] = reason
    return found


def why_none(device: torch.device, number: Format) -> str | None:
    """What a CPU lacks for a number format, in words; None if it has it."""
    return None if number is Format.int8 else f"no {number.value} arithmetic on a CPU"


def best_ms(kernel: Kernel, example: torch.Tensor, residual: Residual = None) -> float:
    """Milliseconds of the fastest of a few calls, after one that is not timed."""
    kernel(example, residual)
    best = float("inf")
    for _ in range(TRIALS):
        began = time.perf_counter()
        kernel(example, residual)
        best = min(best, time.perf_counter() - began)
    return best * 1e3
