"""Quantization fused with what makes the values: smoothing, LayerNorm, GEGLU.

A program takes a block of rows and columns: what belongs to a column (factors, a norm's gain) is
loaded once for all of its rows, and nothing is computed for columns that are not there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sdxl.backends.torch.kernels.rounding import codes_like, gelu, narrow, or_any, to_codes

ROWS, COLUMNS = 32, 128
"""An elementwise program's block: 640, 1280, 2560 and 5120 columns are whole blocks."""

NORM_ROWS = 16
"""Rows of a LayerNorm's program."""


@triton.jit
def _quantize(
    values, factors, per_unit, out, rows, columns, row_stride, gate_offset,
    SMOOTH: tl.constexpr, GEGLU: tl.constexpr, INTEGER: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * BM
    m = tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (m < rows - first)[:, None] & (n < columns)[None, :]
    read = values + first * row_stride + (m[:, None] * row_stride + n[None, :])
    found = tl.load(read, mask=inside, other=0.0)
    if GEGLU:
        gate = tl.load(read + gate_offset, mask=inside, other=0.0)
        # The model's dtype holds gelu(gate) and the product, as in the simulated layer.
        active = narrow(gelu(gate.to(tl.float32)), found.dtype)
        found = narrow(found.to(tl.float32) * active.to(tl.float32), found.dtype)
    if SMOOTH:
        factor = tl.load(factors + n, mask=n < columns, other=0.0).to(tl.float32)
        found = narrow(found.to(tl.float32) * factor[None, :], found.dtype)
    coded = to_codes(found.to(tl.float32), tl.load(per_unit), INTEGER)
    tl.store(out + first * columns + (m[:, None] * columns + n[None, :]), coded, mask=inside)


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
    rows = len(values)
    out = codes_like((rows, columns), dtype, values.device)
    if out.numel():
        _quantize[(triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))](
            values, or_any(factors, values), per_unit, out, rows, columns, values.stride(0),
            gate_offset, SMOOTH=factors is not None, GEGLU=gate_offset > 0,
            INTEGER=dtype is torch.int8, BM=ROWS, BN=COLUMNS,
        )  # fmt: skip
    return out


@triton.jit
def _row_moments(
    read, within, columns, row_stride, eps,
    BM: tl.constexpr, BN: tl.constexpr, BLOCKS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal deviation of rows, in one pass around each row's first value.

    That value is one of the `columns`, so that the variance loses no more than a factor `columns`
    of fp32's precision, whatever the mean.
    """
    m, n = tl.arange(0, BM), tl.arange(0, BN)
    pivot = tl.load(read + m * row_stride, mask=within, other=0.0).to(tl.float32)
    total = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM, BN), tl.float32)
    for block in tl.static_range(BLOCKS):
        at = block * BN + n
        inside = within[:, None] & (at < columns)[None, :]
        found = tl.load(read + (m[:, None] * row_stride + at[None, :]), mask=inside, other=0.0)
        apart = found.to(tl.float32) - pivot[:, None]
        if not WHOLE:
            apart = tl.where(inside, apart, 0.0)
        total += apart
        squares += apart * apart
    shifted = tl.sum(total, axis=1) / columns
    variance = tl.maximum(tl.sum(squares, axis=1) / columns - shifted * shifted, 0.0)
    return pivot + shifted, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _layer_norm(
    values, weight, bias, factors, per_unit, out, rows, columns, row_stride, eps,
    PARTS: tl.constexpr, SMOOTH: tl.constexpr, INTEGER: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BLOCKS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * BM
    m, n = tl.arange(0, BM), tl.arange(0, BN)
    within = m < rows - first
    read = values + first * row_stride
    mean, factor = _row_moments(read, within, columns, row_stride, eps, BM, BN, BLOCKS, WHOLE)
    offset = -mean * factor
    for block in tl.static_range(BLOCKS):
        at = block * BN + n
        inside = within[:, None] & (at < columns)[None, :]
        stored = tl.load(read + (m[:, None] * row_stride + at[None, :]), mask=inside, other=0.0)
        gain = tl.load(weight + at, mask=at < columns, other=0.0).to(tl.float32)
        shift = tl.load(bias + at, mask=at < columns, other=0.0).to(tl.float32)
        normed = stored.to(tl.float32) * factor[:, None] + offset[:, None]
        normed = narrow(normed * gain[None, :] + shift[None, :], stored.dtype).to(tl.float32)
        for part in tl.static_range(PARTS):
            smoothed = normed
            if SMOOTH:
                given = tl.load(factors + part * columns + at, mask=at < columns, other=0.0)
                smoothed = narrow(normed * given.to(tl.float32)[None, :], stored.dtype)
                smoothed = smoothed.to(tl.float32)
            coded = to_codes(smoothed, tl.load(per_unit + part), INTEGER)
            write = out + (part * rows + first) * columns
            tl.store(write + (m[:, None] * columns + at[None, :]), coded, mask=inside)


def layer_norm_quantize(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float,
    factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """`reference.layer_norm_quantize`: one pass for all consumers of a norm (q, k and v)."""
    values = values if values.stride(1) == 1 else values.contiguous()
    rows, columns = values.shape
    out = codes_like((len(per_unit), rows, columns), dtype, values.device)
    block = 256 if columns % 256 == 0 else 128
    if out.numel():
        _layer_norm[(triton.cdiv(rows, NORM_ROWS),)](
            values, weight, bias, or_any(factors, values), per_unit, out, rows, columns,
            values.stride(0), eps, PARTS=len(per_unit), SMOOTH=factors is not None,
            INTEGER=dtype is torch.int8, BM=NORM_ROWS, BN=block,
            BLOCKS=triton.cdiv(columns, block), WHOLE=columns % block == 0,
        )  # fmt: skip
    return out
