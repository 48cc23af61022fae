"""Quantization fused with what makes the values: smoothing, LayerNorm, GroupNorm + SiLU, GEGLU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sdxl.backends.torch.kernels.rounding import codes_like, gelu, narrow, or_any, to_codes

COLUMNS = 1024
"""Columns of a row that one program of an elementwise kernel takes."""


@triton.jit
def _quantize(
    values, factors, per_unit, out, columns, row_stride, gate_offset,
    SMOOTH: tl.constexpr, GEGLU: tl.constexpr, INTEGER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    found = tl.load(values + row * row_stride + at, mask=inside, other=0.0)
    if GEGLU:
        gate = tl.load(values + row * row_stride + gate_offset + at, mask=inside, other=0.0)
        # The model's dtype holds gelu(gate) and the product, as in the simulated layer.
        active = narrow(gelu(gate.to(tl.float32)), found.dtype)
        found = narrow(found.to(tl.float32) * active.to(tl.float32), found.dtype)
    if SMOOTH:
        factor = tl.load(factors + at, mask=inside, other=0.0)
        found = narrow(found.to(tl.float32) * factor.to(tl.float32), found.dtype)
    coded = to_codes(found.to(tl.float32), tl.load(per_unit), INTEGER)
    tl.store(out + row * columns + at, coded, mask=inside)


def quantize(
    values: torch.Tensor, factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """`reference.quantize`; rows may be strided."""
    return _rows(values, values.shape[1], 0, factors, per_unit, dtype)


def geglu_quantize(
    hidden: torch.Tensor, factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """`reference.geglu_quantize`."""
    width = hidden.shape[1] // 2
    return _rows(hidden, width, width, factors, per_unit, dtype)


def _rows(
    values: torch.Tensor, columns: int, gate_offset: int, factors: torch.Tensor | None,
    per_unit: torch.Tensor, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    values = values if values.stride(1) == 1 else values.contiguous()
    out = codes_like((len(values), columns), dtype, values.device)
    if out.numel():
        _quantize[(len(values), triton.cdiv(columns, COLUMNS))](
            values, or_any(factors, values), per_unit, out, columns, values.stride(0), gate_offset,
            SMOOTH=factors is not None, GEGLU=gate_offset > 0, INTEGER=dtype is torch.int8,
            BLOCK=COLUMNS,
        )  # fmt: skip
    return out


@triton.jit
def _layer_norm(
    values, weight, bias, factors, per_unit, out, rows, columns, row_stride, eps,
    PARTS: tl.constexpr, SMOOTH: tl.constexpr, INTEGER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    stored = tl.load(values + row * row_stride + at, mask=inside, other=0.0)
    found = stored.to(tl.float32)
    mean = tl.sum(found, axis=0) / columns
    centred = tl.where(inside, found - mean, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    normed = narrow(centred / deviation * gain + shift, stored.dtype).to(tl.float32)
    for part in tl.static_range(PARTS):
        smoothed = normed
        if SMOOTH:
            factor = tl.load(factors + part * columns + at, mask=inside, other=0.0).to(tl.float32)
            smoothed = narrow(normed * factor, stored.dtype).to(tl.float32)
        coded = to_codes(smoothed, tl.load(per_unit + part), INTEGER)
        tl.store(out + (part * rows + row) * columns + at, coded, mask=inside)


def layer_norm_quantize(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float,
    factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """`reference.layer_norm_quantize`: one pass for all consumers of a norm (q, k and v)."""
    values = values if values.stride(1) == 1 else values.contiguous()
    rows, columns = values.shape
    out = codes_like((len(per_unit), rows, columns), dtype, values.device)
    if out.numel():
        _layer_norm[(rows,)](
            values, weight, bias, or_any(factors, values), per_unit, out, rows, columns,
            values.stride(0), eps, PARTS=len(per_unit), SMOOTH=factors is not None,
            INTEGER=dtype is torch.int8, BLOCK=triton.next_power_of_2(columns),
        )  # fmt: skip
    return out


@triton.jit
def _joined(image, skip, row, at, split, channels, inside):
    """Channels `at` of pixels `row`, of which those from `split` on are the skip's."""
    first = tl.load(image + row * split + at, mask=inside & (at < split), other=0.0)
    other = skip + row * (channels - split) + at - split
    return tl.where(at < split, first, tl.load(other, mask=inside & (at >= split), other=0.0))


@triton.jit
def _group_moments(
    image, skip, moments, pixels, split, channels, groups, eps,
    PIXELS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal deviation of one group of one image; the mean first, then the squares."""
    item, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width = channels // groups
    column = tl.arange(0, WIDTH)
    channel = group * width + column[None, :]
    total = tl.zeros((PIXELS, WIDTH), tl.float32)
    for start in range(0, pixels, PIXELS):
        at = start + tl.arange(0, PIXELS)[:, None]
        inside = (at < pixels) & (column < width)[None, :]
        found = _joined(image, skip, item * pixels + at, channel, split, channels, inside)
        total += found.to(tl.float32)
    mean = tl.sum(tl.sum(total, axis=1), axis=0) / (pixels * width)
    total = tl.zeros((PIXELS, WIDTH), tl.float32)
    for start in range(0, pixels, PIXELS):
        at = start + tl.arange(0, PIXELS)[:, None]
        inside = (at < pixels) & (column < width)[None, :]
        found = _joined(image, skip, item * pixels + at, channel, split, channels, inside)
        apart = found.to(tl.float32) - mean
        total += tl.where(inside, apart * apart, 0.0)
    variance = tl.sum(tl.sum(total, axis=1), axis=0) / (pixels * width)
    place = moments + (item * groups + group) * 2
    tl.store(place, mean)
    tl.store(place + 1, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _group_norm_silu(
    image, skip, moments, weight, bias, per_unit, out, pixels, split, channels, groups,
    INTEGER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < channels
    place = moments + (row // pixels * groups + at // (channels // groups)) * 2
    mean = tl.load(place, mask=inside, other=0.0)
    factor = tl.load(place + 1, mask=inside, other=0.0)
    stored = _joined(image, skip, row, at, split, channels, inside)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    normed = (stored.to(tl.float32) - mean) * factor * gain + shift
    normed = narrow(normed, stored.dtype).to(tl.float32)
    active = narrow(normed / (1.0 + tl.exp(-normed)), stored.dtype).to(tl.float32)
    coded = to_codes(active, tl.load(per_unit), INTEGER)
    tl.store(out + row * channels + at, coded, mask=inside)


def group_norm_silu_quantize(
    image: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float,
    per_unit: torch.Tensor, dtype: torch.dtype, skip: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """`reference.group_norm_silu_quantize`: one pass for the moments, one for the codes."""
    image = image.contiguous()
    count, height, width, split = image.shape
    rest = image if skip is None else skip.contiguous()
    channels = split if skip is None else split + rest.shape[-1]
    pixels = height * width
    out = codes_like((count, height, width, channels), dtype, image.device)
    moments = torch.empty((count, groups, 2), dtype=torch.float32, device=image.device)
    if out.numel():
        _group_moments[(count, groups)](
            image, rest, moments, pixels, split, channels, groups, eps,
            PIXELS=64, WIDTH=triton.next_power_of_2(channels // groups),
        )  # fmt: skip
        _group_norm_silu[(count * pixels, triton.cdiv(channels, COLUMNS))](
            image, rest, moments, weight, bias, per_unit, out, pixels, split, channels, groups,
            INTEGER=dtype is torch.int8, BLOCK=COLUMNS,
        )  # fmt: skip
    return out
