"""Rounding to codes inside a kernel, what is cheap there, and how kernels meet tensors.

On a GPU a cast is one instruction that rounds to even. Triton's interpreter casts with numpy, which
cuts bfloat16 off and rounds E4M3 otherwise: there, and only there, rounding is spelled out.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))

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
"""1.5 * 2^23: added to a small fp32 number it leaves the nearest integer, ties to even, in the
number's last bits."""

E4M3_NORMAL: tl.constexpr = tl.constexpr(0.015625)
"""2^-6, E4M3's smallest normal number; below, its numbers are 2^-9 apart."""

E4M3_EVEN: tl.constexpr = tl.constexpr(24576.0)
"""1.5 * 2^14: adding it to a small fp32 number rounds it to a multiple of 2^-9, ties to even."""

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _drop(x, BITS: tl.constexpr):
    """fp32 values without their last `BITS` bits, rounded, ties to even; NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    half = (1 << (BITS - 1)) - 1
    kept = (bits + half + ((bits >> BITS) & 1)) & -(1 << BITS)
    return tl.where(x == x, kept.to(tl.float32, bitcast=True), x)


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """fp32 -> the model's dtype, ties to even."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        x = _drop(x, 16)
    return x.to(DTYPE)


@triton.jit
def to_codes(values, per_unit, INTEGER: tl.constexpr):
    """fp32 values -> int8 or E4M3 codes, ties to even, the largest code beyond it."""
    scaled = values * per_unit
    if INTEGER:
        inside = tl.minimum(tl.maximum(scaled, INT8_LEAST), INT8_MOST)
        # The integer's last byte is the code; no conversion, which a GPU does at a quarter's speed.
        coded = (inside + EVEN).to(tl.int32, bitcast=True).to(tl.int8)
    else:  # and one return: two of different types do not compile, even where one is never taken
        if INTERPRETED:
            inside = tl.minimum(tl.maximum(scaled, -E4M3_MOST), E4M3_MOST)
            fine = (inside + E4M3_EVEN) - E4M3_EVEN
            scaled = tl.where(tl.abs(inside) < E4M3_NORMAL, fine, _drop(inside, 20))
        coded = scaled.to(tl.float8e4nv)  # cvt.rn.satfinite
    return coded


@triton.jit
def reciprocal(x):
    """1 / x within one unit in the last place, for x far from the ends of fp32."""
    if INTERPRETED:
        found = 1.0 / x
    else:
        found = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return found


@triton.jit
def silu(x):
    """x / (1 + e^-x) in fp32; -0 for x below -88."""
    return x * reciprocal(1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def gelu(x):
    """The exact one: max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, no difference of near numbers.

    erfc by Abramowitz and Stegun 7.1.26, whose error is at most 1.5e-7: that of 1 + erf in fp32.
    """
    size = tl.abs(x)
    t = reciprocal(1.0 + 0.23164189 * size)  # 0.3275911 / sqrt 2
    half = 0.5307027145 * t - 0.7265760135  # the published coefficients over 2
    half = half * t + 0.7107068705
    half = half * t - 0.142248368
    half = half * t + 0.127414796
    return tl.maximum(x, 0.0) - size * (half * t * tl.exp2(x * x * -0.7213475204444817))


def codes_like(shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> torch.Tensor:
    """Room for codes."""
    assert dtype in (torch.int8, torch.float8_e4m3fn), dtype
    return torch.empty(shape, dtype=dtype, device=device)


def or_any(tensor: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """An optional argument: a pointer that the kernel will not read stands for None."""
    return other if tensor is None else tensor
