"""Random inputs of kernels: values, codes and scales as a quantized layer has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.shapes import Convolution, Linear

NUMBERS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
MODEL = torch.bfloat16
RANGE = {"fp8": 448.0, "int8": 127.0}
SPREAD = 4.0
"""Values of unit variance keep their largest at about this many deviations."""


def generator(device: torch.device, seed: int) -> torch.Generator | None:
    """Random numbers of the device; where tensors have no memory, none."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class Product:
    """Codes (M, K) and (N, K) or of a convolution, fp32 scales (N,), bias, residual, GEGLU's.

    row_scale (M, 1) and column_scale (1, N): the factors' own, as cuBLAS takes them by row.
    """

    left: torch.Tensor
    right: torch.Tensor
    scale: torch.Tensor
    left_scale: torch.Tensor
    right_scale: torch.Tensor
    row_scale: torch.Tensor
    column_scale: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor
    per_unit: torch.Tensor


def codes(
    shape: tuple[int, ...], number: str, device: torch.device, generator: torch.Generator | None
) -> torch.Tensor:
    """Codes of values of unit variance whose range is `SPREAD` deviations."""
    values = torch.randn(shape, device=device, generator=generator, dtype=torch.float32)
    values.mul_(RANGE[number] / SPREAD).clamp_(-RANGE[number], RANGE[number])
    return (values.round_() if number == "int8" else values).to(NUMBERS[number])


def values(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> torch.Tensor:
    """bf16 values of unit variance."""
    return torch.randn(shape, device=device, generator=generator, dtype=MODEL)


def linear(shape: Linear, number: str, device: torch.device, seed: int) -> Product:
    """Inputs of a product; its output has about unit variance."""
    source = generator(device, seed)
    outputs = shape.outputs // 2 if shape.after == "geglu" else shape.outputs
    return _product(
        codes((shape.rows, shape.width), number, device, source),
        codes((shape.outputs, shape.width), number, device, source),
        shape.width, number, (shape.rows, outputs), device, source,
    )  # fmt: skip


def convolution(shape: Convolution, number: str, device: torch.device, seed: int) -> Product:
    """Inputs of a convolution: image (N, h, w, C), weight (O, 3, 3, C), residual (N, h, w, O)."""
    source = generator(device, seed)
    pixels = (shape.rows, shape.size, shape.size)
    return _product(
        codes((*pixels, shape.inner), number, device, source),
        codes((shape.outer, 3, 3, shape.inner), number, device, source),
        9 * shape.inner, number, (*pixels, shape.outer), device, source,
    )  # fmt: skip


def _product(
    left: torch.Tensor, right: torch.Tensor, depth: int, number: str, out: tuple[int, ...],
    device: torch.device, generator: torch.Generator | None,
) -> Product:  # fmt: skip
    one = SPREAD / RANGE[number]
    columns = len(right)
    spread = torch.rand(columns, device=device, generator=generator).add_(0.5)
    left_scale = torch.tensor(one, device=device)
    right_scale = spread.mul_(one * depth**-0.5)
    return Product(
        left, right, right_scale * one, left_scale, right_scale,
        left_scale.expand(len(left), 1).contiguous(), right_scale[None, :].contiguous(),
        values((columns,), device, generator), values(out, device, generator),
        torch.tensor(1 / one, device=device),
    )  # fmt: skip


def bytes_of(*tensors: Any) -> int:
    """What they take together."""
    return sum(each.numel() * each.element_size() for each in tensors)
