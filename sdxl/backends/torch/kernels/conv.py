"""8-bit convolution: a matrix product whose left factor is gathered on the way (implicit GEMM).

In a framed picture (a column of zeros behind each row, a row of zeros behind each image) a tap of a
3 x 3 kernel is a shift of the flattened pixels: the product needs neither bounds nor divisions in
its loop, and computes a few positions of the frame in vain (6 % at 32 x 32, 2 % at 128 x 128).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
import triton
import triton.language as tl

from sdxl.backends.torch.kernels.epilogue import finish, parts
from sdxl.backends.torch.kernels.gemm import _place, box, described
from sdxl.backends.torch.kernels.rounding import or_any
from sdxl.backends.torch.kernels.tiles import CONV, Tile


@triton.jit(do_not_specialize=["count"])
def _framed(
    image, weight, scale, bias, residual, out, count, height, width, channels, columns,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, INTEGER: tl.constexpr, WHOLE: tl.constexpr,
    PARTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    GROUP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """3 x 3, stride 1: pixels in the order of the frame, one loop over taps and channels."""
    rows = count * (height + 1) * (width + 1)
    block_row, block_column = _place(rows, columns, BM, BN, GROUP)
    m = block_row * BM + tl.arange(0, BM)
    n = block_column * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    kind = tl.int32 if INTEGER else tl.float32
    found = tl.zeros((BM, BN), kind)
    if not TMA:
        weight += tl.minimum(n, columns - 1).to(tl.int64)[None, :] * 9 * channels + k[:, None]
    down, right, start = 0, 0, 0
    for _ in range(9 * tl.cdiv(channels, BK)):
        shift = (down - 1) * (width + 1) + right - 1
        depth = (down * 3 + right) * channels + start
        if TMA:
            a = image.load([block_row * BM + shift, start])
            b = weight.load([block_column * BN, depth]).T
        else:
            row = m + shift
            seen = ((row >= 0) & (row < rows))[:, None]
            seen = seen if WHOLE else seen & ((start + k) < channels)[None, :]
            at = image + (row.to(tl.int64)[:, None] * channels + (start + k)[None, :])
            a = tl.load(at, mask=seen, other=0.0)
            if WHOLE:
                b = tl.load(weight + depth)
            else:
                b = tl.load(weight + depth, mask=((start + k) < channels)[:, None], other=0.0)
        found = tl.dot(a, b, found, out_dtype=kind)
        start += BK
        over = start >= channels
        start = tl.where(over, 0, start)
        right = tl.where(over, right + 1, right)
        down = tl.where(right == 3, down + 1, down)
        right = tl.where(right == 3, 0, right)
    size = (height + 1) * (width + 1)
    y, x = m % size // (width + 1), m % (width + 1)
    there = (m < rows) & (y < height) & (x < width)
    row, first = (m // size * height + y) * width + x, block_column * BN
    finish(
        found, scale, bias, residual, out, row, first, there, columns, BIAS, RESIDUAL, PARTS
    )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def _conv(
    image, weight, scale, bias, residual, out, count, height, width, channels,
    out_height, out_width, columns, stride, padding,
    KERNEL: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, INTEGER: tl.constexpr,
    PARTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    GROUP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Any square kernel, stride and padding."""
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
    first = block_column * BN
    finish(
        found, scale, bias, residual, out, m, first, m < rows, columns, BIAS, RESIDUAL, PARTS
    )  # fmt: skip


def framed_conv(
    image: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, dtype: torch.dtype, tile: Tile = CONV[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.conv` of 3 x 3 with stride and padding 1, for codes (N, H + 1, W + 1, C)."""
    image, weight = image.contiguous(), weight.contiguous()
    assert image.dtype is weight.dtype and weight.shape[1:3] == (3, 3), weight.shape
    count, height, width, channels = image.shape
    columns = len(weight)
    out = torch.empty((count, height - 1, width - 1, columns), dtype=dtype, device=image.device)
    if not out.numel():
        return out
    extra = residual if residual is None else residual.contiguous()
    tile = described(tile, channels)
    given: tuple[Any, ...] = (image, weight)
    if tile.TMA:
        given = (
            box(image.view(-1, channels), tile.BM, tile.BK),
            box(weight.view(columns, -1), tile.BN, tile.BK),
        )
    rows = count * height * width
    _framed[(triton.cdiv(rows, tile.BM) * triton.cdiv(columns, tile.BN),)](
        *given, scale, or_any(bias, scale), or_any(extra, out), out, count, height - 1, width - 1,
        channels, columns, BIAS=bias is not None, RESIDUAL=extra is not None,
        INTEGER=image.dtype is torch.int8, WHOLE=channels % tile.BK == 0,
        PARTS=parts(tile.BN), **asdict(tile),
    )  # fmt: skip
    return out


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
            INTEGER=image.dtype is torch.int8,
            PARTS=parts(tile.BN), **asdict(replace(tile, TMA=False)),
        )  # fmt: skip
    return out
