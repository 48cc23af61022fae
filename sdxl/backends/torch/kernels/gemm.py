"""8-bit matrix products with everything that follows them in the epilogue."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sdxl.backends.torch.kernels.epilogue import finish, parts, scaled
from sdxl.backends.torch.kernels.rounding import (
    TRITON_DTYPE,
    codes_like,
    gelu,
    narrow,
    or_any,
    to_codes,
)
from sdxl.backends.torch.kernels.tiles import GEGLU, PLAIN, Tile


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
def _loaded(at, k, depth, WHOLE: tl.constexpr):
    """A block whose depth may end before it does; rows beyond the last repeat it."""
    return tl.load(at) if WHOLE else tl.load(at, mask=k < depth, other=0.0)


@triton.jit(do_not_specialize=["rows"])
def _gemm(
    left, right, scale, bias, residual, factors, per_unit, out, rows, columns, depth, left_stride,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GEGLU: tl.constexpr, SMOOTH: tl.constexpr,
    INTEGER: tl.constexpr, MODEL: tl.constexpr, WHOLE: tl.constexpr, PARTS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """`columns`: of the product; with GEGLU value and gate take turns, and half as many go out."""
    block_row, block_column = _place(rows, columns, BM, BN, GROUP)
    m = block_row * BM + tl.arange(0, BM)
    n = block_column * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    kind = tl.int32 if INTEGER else tl.float32
    found = tl.zeros((BM, BN), kind)
    if not TMA:
        left += tl.minimum(m, rows - 1).to(tl.int64)[:, None] * left_stride + k[None, :]
        right += tl.minimum(n, columns - 1).to(tl.int64)[None, :] * depth + k[:, None]
    for start in range(0, depth, BK):
        if TMA:
            a = left.load([block_row * BM, start])
            b = right.load([block_column * BN, start]).T
        else:
            a = _loaded(left, (start + k)[None, :], depth, WHOLE)
            b = _loaded(right, (start + k)[:, None], depth, WHOLE)
            left += BK
            right += BK
        found = tl.dot(a, b, found, out_dtype=kind)
    if GEGLU:
        value = scaled(found, scale, bias, n, columns, BIAS)
        # Neighbours in a row lie in one thread: to part them moves nothing.
        mine, gate = tl.split(tl.reshape(value, (BM, BN // 2, 2)))
        value = narrow(mine * gelu(gate), MODEL).to(tl.float32)
        width = columns // 2
        n = block_column * (BN // 2) + tl.arange(0, BN // 2)
        if SMOOTH:
            factor = tl.load(factors + n, mask=n < width, other=0.0).to(tl.float32)
            value = narrow(value * factor[None, :], MODEL).to(tl.float32)
        place = m.to(tl.int64)[:, None] * width + n[None, :]
        both = (m < rows)[:, None] & (n < width)[None, :]
        tl.store(out + place, to_codes(value, tl.load(per_unit), INTEGER), mask=both)
    else:
        first = block_column * BN
        finish(
            found, scale, bias, residual, out, m, first, m < rows, columns, BIAS, RESIDUAL, PARTS
        )


def gemm(
    left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, dtype: torch.dtype, tile: Tile = PLAIN[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.gemm`; rows of `left` may be strided."""
    out = torch.empty((len(left), len(right)), dtype=dtype, device=left.device)
    extra = residual if residual is None else residual.contiguous()
    _launch(left, right, scale, bias, extra, None, scale, out, False, dtype, tile)
    return out


def paired(halves: torch.Tensor) -> torch.Tensor:
    """Value (first half) and gate of a weight, scale or bias, taking turns: for `gemm_geglu`."""
    stored = halves.view(torch.int8) if halves.element_size() == 1 else halves
    turns = torch.stack(stored.chunk(2), dim=1).flatten(0, 1).contiguous()
    return turns.view(halves.dtype)


def gemm_geglu(
    left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype,
    tile: Tile = GEGLU[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.gemm_geglu` for weight, scale and bias that are `paired`: codes out."""
    out = codes_like((len(left), len(right) // 2), left.dtype, left.device)
    _launch(left, right, scale, bias, None, factors, per_unit, out, True, dtype, tile)
    return out


def _launch(
    left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, factors: torch.Tensor | None, per_unit: torch.Tensor,
    out: torch.Tensor, geglu: bool, dtype: torch.dtype, tile: Tile,
) -> None:  # fmt: skip
    assert left.dtype is right.dtype, (left.dtype, right.dtype)
    left = left if left.stride(1) == 1 else left.contiguous()
    right = right.contiguous()
    (rows, depth), columns = left.shape, len(right)
    if not out.numel():
        return
    tile = described(tile, depth, left.stride(0))
    given: tuple[Any, ...] = (left, right)
    if tile.TMA:
        given = (box(left, tile.BM, tile.BK), box(right, tile.BN, tile.BK))
    _gemm[(triton.cdiv(rows, tile.BM) * triton.cdiv(columns, tile.BN),)](
        *given, scale, or_any(bias, scale), or_any(residual, out), or_any(factors, scale),
        per_unit, out, rows, columns, depth, left.stride(0),
        BIAS=bias is not None, RESIDUAL=residual is not None, GEGLU=geglu,
        SMOOTH=factors is not None, INTEGER=left.dtype is torch.int8, MODEL=TRITON_DTYPE[dtype],
        WHOLE=depth % tile.BK == 0, PARTS=parts(tile.BN), **asdict(tile),
    )  # fmt: skip


def described(tile: Tile, *strides: int) -> Tile:
    """The tile, without TMA where a row of bytes is no multiple of 16."""
    return tile if all(stride % 16 == 0 for stride in strides) else replace(tile, TMA=False)


def box(matrix: torch.Tensor, rows: int, columns: int) -> Any:
    """A matrix that the TMA unit copies in boxes; what lies outside of it is 0."""
    shape, strides = list(matrix.shape), list(matrix.stride())
    return TensorDescriptor(matrix, shape, strides, [rows, columns])
