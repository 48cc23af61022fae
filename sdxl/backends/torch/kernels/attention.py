"""FP8 attention that goes over the keys twice, because softmax is divided before it becomes codes.

The first pass finds each row's maximum and sum, the second makes the probabilities, their codes and
the product with the values: the numbers of the simulated layer, without its matrix of scores.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sdxl.backends.torch.kernels.rounding import TRITON_DTYPE, narrow, to_codes
from sdxl.backends.torch.kernels.tiles import ATTENTION, Tile

LOG2_E = 1.4426950408889634


@triton.jit
def _scores(query, key_at, n, keys, column, width, unit):
    """Scores (BM, BN) in powers of two, of the keys from n; minus infinity beyond the last."""
    there = n < keys
    key = tl.load(key_at, mask=there[None, :] & (column < width)[:, None], other=0.0)
    return tl.where(there[None, :], tl.dot(query, key, out_dtype=tl.float32) * unit, float("-inf"))


@triton.jit
def _attention(
    query, key, value, out, length, keys, heads, width, score_unit, per_unit, out_unit,
    MODEL: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64) // heads
    head = tl.program_id(1).to(tl.int64) % heads
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    block = tl.arange(0, BN)
    column = tl.arange(0, WIDTH)
    inside = (m < length)[:, None] & (column < width)[None, :]
    rows = ((item * length + m)[:, None] * heads + head) * width + column[None, :]
    asked = tl.load(query + rows, mask=inside, other=0.0)
    key_at = key + ((item * keys + block)[None, :] * heads + head) * width + column[:, None]
    value_at = value + ((item * heads + head) * width + column[None, :]) * keys + block[:, None]
    step = BN * heads * width

    at = key_at
    most = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, keys, BN):
        scores = _scores(asked, at, start + block, keys, column, width, score_unit)
        new = tl.maximum(most, tl.max(scores, axis=1))
        total = total * tl.exp2(most - new) + tl.sum(tl.exp2(scores - new[:, None]), axis=1)
        most = new
        at += step

    at = key_at
    found = tl.zeros((BM, WIDTH), tl.float32)
    for start in range(0, keys, BN):
        scores = _scores(asked, at, start + block, keys, column, width, score_unit)
        share = narrow(tl.exp2(scores - most[:, None]) / total[:, None], MODEL).to(tl.float32)
        coded = to_codes(share, per_unit, False)
        there = ((start + block) < keys)[:, None] & (column < width)[None, :]
        given = tl.load(value_at + start, mask=there, other=0.0)
        found = tl.dot(coded, given, found, out_dtype=tl.float32)
        at += step
    tl.store(out + rows, narrow(found * out_unit, MODEL), mask=inside)


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, units: tuple[float, ...],
    scale: float, per_unit: float, dtype: torch.dtype, tile: Tile = ATTENTION[0],
) -> torch.Tensor:  # fmt: skip
    """`reference.attention`; E4M3 codes (B, L, heads, width) in, values of `dtype` out."""
    query, key = query.contiguous(), key.contiguous()
    # The product with the probabilities wants a column's keys side by side.
    turned = value.permute(0, 2, 3, 1).contiguous()
    batch, length, heads, width = query.shape
    out = torch.empty(query.shape, dtype=dtype, device=query.device)
    if out.numel():
        _attention[(triton.cdiv(length, tile.BM), batch * heads)](
            query, key, turned, out, length, key.shape[1], heads, width,
            units[0] * units[1] * scale * LOG2_E, per_unit, units[2] / per_unit,
            MODEL=TRITON_DTYPE[dtype], WIDTH=max(32, triton.next_power_of_2(width)),
            BM=tile.BM, BN=tile.BN, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return out
