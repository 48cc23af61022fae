"""8-bit convolution: a matrix product whose left factor is gathered on the way (implicit GEMM)."""

from __future__ import annotations

from dataclasses import asdict

import torch
import triton
import triton.language as tl

from sdxl.kernels.epilogue import keep, scaled
from sdxl.kernels.gemm import _place
from sdxl.kernels.rounding import or_any
from sdxl.kernels.tiles import CONV, Tile


@triton.jit
def _conv(
    image, weight, scale, bias, residual, out, count, height, width, channels,
    out_height, out_width, columns, stride, padding,
    KERNEL: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, INTEGER: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows = count * out_height * out_width
    block_row, block_column = _place(rows, columns, BM, BN, GROUP)
    m = block_row * BM + tl.arange(0, BM)
    n = block_column * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    item = m // (out_height * out_width)
    down = m // out_width % out_height * stride - padding
    right = m % out_width * stride - padding
    kind = tl.int32 if INTEGER else tl.float32
    found = tl.zeros((BM, BN), kind)
    for tap in range(KERNEL * KERNEL):
        y = down + tap // KERNEL
        x = right + tap % KERNEL
        # Outside the picture the code is 0, which is what zero padding quantizes to.
        seen = (m < rows) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = ((item.to(tl.int64) * height + y) * width + x) * channels
        kernel = (n.to(tl.int64) * KERNEL * KERNEL + tap) * channels
        for start in range(0, channels, BK):
            there = (start + k) < channels
            a = tl.load(
                image + pixel[:, None] + (start + k)[None, :],
                mask=seen[:, None] & there[None, :], other=0.0,
            )  # fmt: skip
            b = tl.load(
                weight + kernel[None, :] + (start + k)[:, None],
                mask=(n < columns)[None, :] & there[:, None], other=0.0,
            )  # fmt: skip
            found = tl.dot(a, b, found, out_dtype=kind)
    value = scaled(found, scale, bias, n, columns, BIAS)
    keep(value, residual, out, m, n, rows, columns, RESIDUAL)


def conv(
    image: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, stride: int, padding: int, dtype: torch.dtype,
    tile: Tile = CONV[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.conv`: square kernels, the same stride and padding in both directions."""
    image, weight = image.contiguous(), weight.contiguous()
    assert image.dtype is weight.dtype and weight.shape[1] == weight.shape[2], weight.shape
    count, height, width, channels = image.shape
    columns, kernel = weight.shape[:2]
    out_height = (height + 2 * padding - kernel) // stride + 1
    out_width = (width + 2 * padding - kernel) // stride + 1
    shape = (count, out_height, out_width, columns)
    out = torch.empty(shape, dtype=dtype, device=image.device)
    extra = residual if residual is None else residual.contiguous()
    blocks = triton.cdiv(count * out_height * out_width, tile.BM) * triton.cdiv(columns, tile.BN)
    if out.numel():
        _conv[(blocks,)](
            image, weight, scale, or_any(bias, scale), or_any(extra, out), out, count, height,
            width, channels, out_height, out_width, columns, stride, padding,
            KERNEL=kernel, BIAS=bias is not None, RESIDUAL=extra is not None,
            INTEGER=image.dtype is torch.int8, **asdict(tile),
        )  # fmt: skip
    return out
