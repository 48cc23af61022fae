"""8-bit matrix products with everything that follows them in the epilogue."""

from __future__ import annotations

from dataclasses import asdict

import torch
import triton
import triton.language as tl

from sdxl.kernels.epilogue import keep, scaled
from sdxl.kernels.rounding import TRITON_DTYPE, codes_like, gelu, narrow, or_any, to_codes
from sdxl.kernels.tiles import GEGLU, PLAIN, Tile


@triton.jit
def _place(rows, columns, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """This program's block of the output, in an order that reuses the cache."""
    number = tl.program_id(0)
    across, down = tl.cdiv(columns, BN), tl.cdiv(rows, BM)
    band = number // (GROUP * across)
    first = band * GROUP
    height = tl.minimum(down - first, GROUP)
    within = number % (GROUP * across)
    return first + within % height, within // height


@triton.jit
def _gemm(
    left, right, scale, bias, residual, factors, per_unit, out, rows, columns, depth, left_stride,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GEGLU: tl.constexpr, SMOOTH: tl.constexpr,
    INTEGER: tl.constexpr, MODEL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    block_row, block_column = _place(rows, columns, BM, BN, GROUP)
    m = block_row * BM + tl.arange(0, BM)
    n = block_column * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    left_at = left + m.to(tl.int64)[:, None] * left_stride + k[None, :]
    right_at = right + n.to(tl.int64)[None, :] * depth + k[:, None]
    gate_at = right_at + columns.to(tl.int64) * depth  # the second half of the weight
    kind = tl.int32 if INTEGER else tl.float32
    found = tl.zeros((BM, BN), kind)
    gate = tl.zeros((BM, BN), kind)
    for start in range(0, depth, BK):
        there = (start + k) < depth
        a = tl.load(left_at, mask=(m < rows)[:, None] & there[None, :], other=0.0)
        b = tl.load(right_at, mask=(n < columns)[None, :] & there[:, None], other=0.0)
        found = tl.dot(a, b, found, out_dtype=kind)
        if GEGLU:
            c = tl.load(gate_at, mask=(n < columns)[None, :] & there[:, None], other=0.0)
            gate = tl.dot(a, c, gate, out_dtype=kind)
            gate_at += BK
        left_at += BK
        right_at += BK
    value = scaled(found, scale, bias, n, columns, BIAS)
    if GEGLU:
        other = scaled(gate, scale + columns, bias + columns, n, columns, BIAS)
        value = narrow(value * gelu(other), MODEL).to(tl.float32)
        inside = n < columns
        if SMOOTH:
            factor = tl.load(factors + n, mask=inside, other=0.0).to(tl.float32)
            value = narrow(value * factor[None, :], MODEL).to(tl.float32)
        place = m.to(tl.int64)[:, None] * columns + n[None, :]
        both = (m < rows)[:, None] & inside[None, :]
        tl.store(out + place, to_codes(value, tl.load(per_unit), INTEGER), mask=both)
    else:
        keep(value, residual, out, m, n, rows, columns, RESIDUAL)


def gemm(
    left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, dtype: torch.dtype, tile: Tile = PLAIN[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.gemm`; rows of `left` may be strided."""
    left = left if left.stride(1) == 1 else left.contiguous()
    out = torch.empty((len(left), len(right)), dtype=dtype, device=left.device)
    extra = residual if residual is None else residual.contiguous()
    _launch(left, right.contiguous(), scale, bias, extra, None, scale, out, False, dtype, tile)
    return out


def gemm_geglu(
    left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype,
    tile: Tile = GEGLU[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.gemm_geglu`: both halves in one program, codes out."""
    left = left if left.stride(1) == 1 else left.contiguous()
    out = codes_like((len(left), len(right) // 2), left.dtype, left.device)
    _launch(left, right.contiguous(), scale, bias, None, factors, per_unit, out, True, dtype, tile)
    return out


def _launch(
    left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, factors: torch.Tensor | None, per_unit: torch.Tensor,
    out: torch.Tensor, geglu: bool, dtype: torch.dtype, tile: Tile,
) -> None:  # fmt: skip
    assert left.dtype is right.dtype, (left.dtype, right.dtype)
    rows, columns = out.shape
    if not out.numel():
        return
    _gemm[(triton.cdiv(rows, tile.BM) * triton.cdiv(columns, tile.BN),)](
        left, right, scale, or_any(bias, scale), or_any(residual, out), or_any(factors, scale),
        per_unit, out, rows, columns, left.shape[1], left.stride(0),
        BIAS=bias is not None, RESIDUAL=residual is not None, GEGLU=geglu,
        SMOOTH=factors is not None, INTEGER=left.dtype is torch.int8, MODEL=TRITON_DTYPE[dtype],
        **asdict(tile),
    )  # fmt: skip
