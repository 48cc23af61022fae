"""Rounding to codes inside a kernel, and how kernels meet tensors."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

INT8_LEAST: tl.constexpr = tl.constexpr(-128.0)
INT8_MOST: tl.constexpr = tl.constexpr(127.0)
E4M3_MOST: tl.constexpr = tl.constexpr(448.0)
TRITON_DTYPE = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
"""A kernel's name for the model's dtype."""

EVEN: tl.constexpr = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding it to a small fp32 number rounds it to an integer, ties to even."""


E4M3_NORMAL: tl.constexpr = tl.constexpr(0.015625)
"""2^-6, E4M3's smallest normal number; below, its numbers are 2^-9 apart."""

E4M3_EVEN: tl.constexpr = tl.constexpr(24576.0)
"""1.5 * 2^14: adding it to a small fp32 number rounds it to a multiple of 2^-9, ties to even."""


@triton.jit
def _drop(x, BITS: tl.constexpr):
    """fp32 values without their last `BITS` bits, rounded, ties to even; NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    half = (1 << (BITS - 1)) - 1
    kept = (bits + half + ((bits >> BITS) & 1)) & -(1 << BITS)
    return tl.where(x == x, kept.to(tl.float32, bitcast=True), x)


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """fp32 -> the model's dtype, ties to even. The interpreter's own cast to bf16 cuts off."""
    if tl.bfloat16 == DTYPE:
        x = _drop(x, 16)
    return x.to(DTYPE)


@triton.jit
def to_codes(values, per_unit, INTEGER: tl.constexpr):
    """fp32 values -> int8 or E4M3 codes, ties to even."""
    scaled = values * per_unit
    if INTEGER:
        inside = tl.minimum(tl.maximum(scaled, INT8_LEAST), INT8_MOST)
        coded = ((inside + EVEN) - EVEN).to(tl.int8)
    else:  # and one return: two of different types do not compile, even where one is never taken
        inside = tl.minimum(tl.maximum(scaled, -E4M3_MOST), E4M3_MOST)
        # Exact before the cast, whose ties differ between processors and the interpreter.
        fine = (inside + E4M3_EVEN) - E4M3_EVEN
        coded = tl.where(tl.abs(inside) < E4M3_NORMAL, fine, _drop(inside, 20)).to(tl.float8e4nv)
    return coded


@triton.jit
def gelu(x):
    """The exact one, with erf."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


def codes_like(shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> torch.Tensor:
    """Room for codes."""
    assert dtype in (torch.int8, torch.float8_e4m3fn), dtype
    return torch.empty(shape, dtype=dtype, device=device)


def or_any(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """An optional argument: a pointer that the kernel will not read stands for None."""
    return other if tensor is None else tensor
