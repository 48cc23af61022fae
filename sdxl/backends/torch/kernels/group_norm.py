"""GroupNorm, SiLU and rounding of channels-last images, in three kernels.

Moments of each channel in each chunk of pixels; their merge into one factor and one offset for each
channel of each image; and one pass that applies them. What is added to every pixel of a channel (a
time embedding) only moves the mean: it costs nothing there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from sdxl.backends.torch.kernels.rounding import codes_like, narrow, or_any, silu, to_codes

BLOCK = 64
"""Channels of a program: all of SDXL's widths are whole blocks."""

CHUNK = 256
"""Pixels of one set of moments."""

STEP = 32
"""Pixels at a time."""

PIXELS = 64
"""Pixels of a program that writes codes."""

MERGED = 16
"""Chunks at a time in the merge."""


@triton.jit
def _joined(image, skip, row, at, split, channels, inside, SKIP: tl.constexpr):
    """Channels `at` of pixels `row` (within one image); from `split` on they are the skip's."""
    if SKIP:
        own = tl.load(image + (row * split + at), mask=inside & (at < split), other=0.0)
        other = skip + (row * (channels - split) + (at - split))
        found = tl.where(at < split, own, tl.load(other, mask=inside & (at >= split), other=0.0))
    else:
        found = tl.load(image + (row * channels + at), mask=inside, other=0.0)
    return found


@triton.jit
def _moments(
    image, skip, moments, pixels, split, channels, chunks,
    SKIP: tl.constexpr, WHOLE: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squares around it, of each channel in one chunk; around its first pixel."""
    item, chunk = tl.program_id(2), tl.program_id(1)
    n = (tl.program_id(0) * BN + tl.arange(0, BN))[None, :]
    image += item.to(tl.int64) * pixels * split
    skip += item.to(tl.int64) * pixels * (channels - split)
    first = chunk * CHUNK
    pivot = _joined(image, skip, first, n, split, channels, n < channels, SKIP).to(tl.float32)
    total = tl.zeros((STEP, BN), tl.float32)
    squares = tl.zeros((STEP, BN), tl.float32)
    for start in tl.static_range(0, CHUNK, STEP):
        at = (first + start + tl.arange(0, STEP))[:, None]
        found = _joined(
            image, skip, at, n, split, channels, (at < pixels) & (n < channels), SKIP
        )  # fmt: skip
        apart = found.to(tl.float32) - pivot
        if not WHOLE:
            apart = tl.where(at < pixels, apart, 0.0)
        total += apart
        squares += apart * apart
    count = tl.minimum(pixels - first, CHUNK).to(tl.float32)
    shifted = tl.sum(total, axis=0)[None, :] / count
    around = tl.sum(squares, axis=0)[None, :] - shifted * shifted * count
    place = moments + (item * chunks + chunk) * 2 * channels + n
    tl.store(place, pivot + shifted, mask=n < channels)
    tl.store(place + channels, tl.maximum(around, 0.0), mask=n < channels)


@triton.jit
def _merge(
    moments, weight, bias, added, table, pixels, channels, chunks, groups, eps,
    ADDED: tl.constexpr, CHUNK: tl.constexpr, MERGED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One group of one image: the factor and offset of each of its channels."""
    item, group = tl.program_id(1), tl.program_id(0)
    width = channels // groups
    column = tl.arange(0, WIDTH)
    n = group * width + column
    extra = tl.zeros((WIDTH,), tl.float32)
    if ADDED:
        extra = tl.load(added + item * channels + n, mask=column < width, other=0.0).to(tl.float32)
    read = moments + item * chunks * 2 * channels + n[None, :]
    total = tl.zeros((MERGED, WIDTH), tl.float32)
    for start in range(0, chunks, MERGED):
        chunk = (start + tl.arange(0, MERGED))[:, None]
        inside = (chunk < chunks) & (column < width)[None, :]
        mean = tl.load(read + chunk * 2 * channels, mask=inside, other=0.0) + extra[None, :]
        count = tl.minimum(pixels - chunk * CHUNK, CHUNK).to(tl.float32)
        total += tl.where(inside, mean * count, 0.0)
    size = (pixels * width).to(tl.float32)
    middle = tl.sum(tl.sum(total, axis=1), axis=0) / size
    total = tl.zeros((MERGED, WIDTH), tl.float32)
    for start in range(0, chunks, MERGED):
        chunk = (start + tl.arange(0, MERGED))[:, None]
        inside = (chunk < chunks) & (column < width)[None, :]
        mean = tl.load(read + chunk * 2 * channels, mask=inside, other=0.0) + extra[None, :]
        around = tl.load(read + (chunk * 2 + 1) * channels, mask=inside, other=0.0)
        count = tl.minimum(pixels - chunk * CHUNK, CHUNK).to(tl.float32)
        total += tl.where(inside, around + count * (mean - middle) * (mean - middle), 0.0)
    variance = tl.sum(tl.sum(total, axis=1), axis=0) / size
    gain = tl.load(weight + n, mask=column < width, other=0.0).to(tl.float32)
    shift = tl.load(bias + n, mask=column < width, other=0.0).to(tl.float32)
    factor = gain / tl.sqrt(variance + eps)
    write = table + item * 2 * channels + n
    tl.store(write, factor, mask=column < width)
    tl.store(write + channels, shift + (extra - middle) * factor, mask=column < width)


@triton.jit
def _apply(
    image, skip, table, per_unit, out, height, width, split, channels,
    SKIP: tl.constexpr, SILU: tl.constexpr, FRAME: tl.constexpr, INTEGER: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Codes of factor * image + offset; with FRAME a column and a row of zeros after each image."""
    item = tl.program_id(2)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    image += item.to(tl.int64) * height * width * split
    skip += item.to(tl.int64) * height * width * (channels - split)
    pixels = (height + FRAME) * (width + FRAME)
    row, there = m, m < pixels
    if FRAME:
        down, right = m // (width + 1), m % (width + 1)
        row, there = down * width + right, (down < height) & (right < width)
    inside = there[:, None] & (n < channels)
    stored = _joined(image, skip, row[:, None], n, split, channels, inside, SKIP)
    factor = tl.load(table + item * 2 * channels + n, mask=n < channels, other=0.0)
    offset = tl.load(table + (item * 2 + 1) * channels + n, mask=n < channels, other=0.0)
    normed = stored.to(tl.float32) * factor + offset
    if SILU:
        normed = silu(narrow(normed, stored.dtype).to(tl.float32))
    given = narrow(normed, stored.dtype).to(tl.float32)
    if FRAME:
        given = tl.where(there[:, None], given, 0.0)
    coded = to_codes(given, tl.load(per_unit), INTEGER)
    write = out + item.to(tl.int64) * pixels * channels + (m[:, None] * channels + n)
    tl.store(write, coded, mask=(m < pixels)[:, None] & (n < channels))


def group_norm_quantize(
    image: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float,
    per_unit: torch.Tensor, dtype: torch.dtype, skip: torch.Tensor | None = None,
    added: torch.Tensor | None = None, activate: bool = True, frame: bool = False,
) -> torch.Tensor:  # fmt: skip
    """`reference.group_norm_quantize`: codes (N, H, W, C), or (N, H + 1, W + 1, C) with a frame."""
    image = image.contiguous()
    count, height, width, split = image.shape
    rest = image if skip is None else skip.contiguous()
    channels = split if skip is None else split + rest.shape[-1]
    shape = (count, height + frame, width + frame, channels)
    out = codes_like(shape, dtype, image.device)
    if not out.numel():
        return out
    table = _table(image, rest, groups, weight, bias, eps, added, channels)
    _apply[(triton.cdiv(shape[1] * shape[2], PIXELS), triton.cdiv(channels, BLOCK), count)](
        image, rest, table, per_unit, out, height, width, split, channels,
        SKIP=skip is not None, SILU=activate, FRAME=int(frame), INTEGER=dtype is torch.int8,
        BM=PIXELS, BN=BLOCK,
    )  # fmt: skip
    return out


def _table(
    image: torch.Tensor, rest: torch.Tensor, groups: int, weight: torch.Tensor,
    bias: torch.Tensor, eps: float, added: torch.Tensor | None, channels: int,
) -> torch.Tensor:  # fmt: skip
    """Factors and offsets (N, 2, C)."""
    count, height, width, split = image.shape
    pixels = height * width
    chunks = triton.cdiv(pixels, CHUNK)
    fp32: dict[str, Any] = {"dtype": torch.float32, "device": image.device}
    moments = torch.empty((count, chunks, 2, channels), **fp32)
    table = torch.empty((count, 2, channels), **fp32)
    extra = None if added is None else added.contiguous()
    _moments[(triton.cdiv(channels, BLOCK), chunks, count)](
        image, rest, moments, pixels, split, channels, chunks, SKIP=split != channels,
        WHOLE=pixels % CHUNK == 0, CHUNK=CHUNK, STEP=STEP, BN=BLOCK,
    )  # fmt: skip
    _merge[(groups, count)](
        moments, weight, bias, or_any(extra, table), table, pixels, channels, chunks, groups, eps,
        ADDED=extra is not None, CHUNK=CHUNK, MERGED=MERGED,
        WIDTH=triton.next_power_of_2(channels // groups),
    )  # fmt: skip
    return table
