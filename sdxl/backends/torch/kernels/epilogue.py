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
def _keep(value, residual, out, row, n, there, columns, RESIDUAL: tl.constexpr):
    place = row.to(tl.int64)[:, None] * columns + n[None, :]
    both = there[:, None] & (n < columns)[None, :]
    if RESIDUAL:
        value += tl.load(residual + place, mask=both, other=0.0).to(tl.float32)
    tl.store(out + place, narrow(value, out.dtype.element_ty), mask=both)


@triton.jit
def finish(
    found, scale, bias, residual, out, row, first, there, columns,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Store rows `row` (where `there`) and the columns from `first` on, the residual in fp32.

    In halves or quarters of its columns a block needs fewer registers, and nothing moves for it.
    """
    height: tl.constexpr = found.shape[0]
    width: tl.constexpr = found.shape[1] // PARTS
    if PARTS == 1:
        n = first + tl.arange(0, width)
        value = scaled(found, scale, bias, n, columns, BIAS)
        _keep(value, residual, out, row, n, there, columns, RESIDUAL)
    else:
        less: tl.constexpr = PARTS // 2
        half: tl.constexpr = width * less
        left, right = tl.split(tl.permute(tl.reshape(found, (height, 2, half)), (0, 2, 1)))
        finish(left, scale, bias, residual, out, row, first, there, columns, BIAS, RESIDUAL, less)
        first += half
        finish(right, scale, bias, residual, out, row, first, there, columns, BIAS, RESIDUAL, less)


def parts(columns: int) -> int:
    """In how many parts `finish` stores a block: 64 columns of 16 bits are a line of the cache."""
    return max(1, columns // 64)
