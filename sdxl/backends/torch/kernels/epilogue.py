"""What follows every 8-bit product in its program: scales, bias, residual, the model's dtype."""

from __future__ import annotations

import triton
import triton.language as tl

from sdxl.backends.torch.kernels.rounding import narrow


@triton.jit
def scaled(found, scale, bias, n, columns, BIAS: tl.constexpr):
    """Sums of codes (BM, BN) -> fp32 values: times the columns' scales, plus their bias."""
    inside = n < columns
    value = found.to(tl.float32) * tl.load(scale + n, mask=inside, other=0.0)[None, :]
    if BIAS:
        value += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    return value


@triton.jit
def keep(value, residual, out, m, n, rows, columns, RESIDUAL: tl.constexpr):
    """Store rows m and columns n of the output, the residual added in fp32."""
    place = m.to(tl.int64)[:, None] * columns + n[None, :]
    both = (m < rows)[:, None] & (n < columns)[None, :]
    if RESIDUAL:
        value += tl.load(residual + place, mask=both, other=0.0).to(tl.float32)
    tl.store(out + place, narrow(value, out.dtype.element_ty), mask=both)
