"""Numbers in 8 and 4 bits: to codes, back, and the rounding of activations.

The formulas are ModelOpt's own (`tensor_quant._tensor_quant`, `_fp8_eager`, 0.47), in the same
order of operations, so that a stored code gives back the simulated value to the bit.
"""

from __future__ import annotations

import torch
from torch.nn import functional

INT_BOUND = {8: 127.0, 4: 7.0}
FP8_MAX = 448.0
TINY = 1.0 / (1 << 24)
"""ModelOpt takes an amax up to this for zero: such values become 0."""


def integer_codes(values: torch.Tensor, amax: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """Rounded values / (amax / bound) as int8; `amax` broadcasts over `values`."""
    bound = INT_BOUND[bits]
    codes = (values.float() * _int_scale(amax, bound, 0.0)).round_()
    return codes.clamp_(-bound - 1, bound).to(torch.int8)


def from_integer(codes: torch.Tensor, amax: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """fp32 values of integer codes."""
    return codes.float() / _int_scale(amax, INT_BOUND[bits], 1.0)


def fp8_codes(values: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
    """Values scaled so that `amax` is E4M3's largest number, rounded to it."""
    scaled = (values.float() * _fp8_scale(amax)).clamp_(-FP8_MAX, FP8_MAX)
    return scaled.to(torch.float8_e4m3fn)


def from_fp8(codes: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
    """fp32 values of E4M3 codes."""
    return codes.float() * (1 / _fp8_scale(amax))


def rounded(values: torch.Tensor, amax: torch.Tensor, fp8: bool) -> torch.Tensor:
    """Values as INT8 or FP8 would hold them, in their own dtype (simulated quantization)."""
    if fp8:
        return from_fp8(fp8_codes(values, amax), amax).to(values.dtype)
    bound = INT_BOUND[8]
    simulated = (values.float() * _int_scale(amax, bound, 0.0)).round_().clamp_(-bound - 1, bound)
    return simulated.div_(_int_scale(amax, bound, 1.0)).to(values.dtype)


def int8_per_unit(amax: torch.Tensor) -> torch.Tensor:
    """What a value is multiplied with to become an INT8 code, before rounding; fp32."""
    return _int_scale(amax, INT_BOUND[8], 0.0)


def int8_unit(amax: torch.Tensor) -> torch.Tensor:
    """What one INT8 code stands for; fp32."""
    return 1 / _int_scale(amax, INT_BOUND[8], 1.0)


def fp8_per_unit(amax: torch.Tensor) -> torch.Tensor:
    """What a value is multiplied with to become an E4M3 code, before rounding; fp32."""
    return _fp8_scale(amax)


def to_blocks(weight: torch.Tensor, block: int) -> torch.Tensor:
    """A Linear weight (O, I) as (O, ceil(I / block), block), padded with zeros."""
    padded = functional.pad(weight, (0, -weight.shape[1] % block))
    return padded.reshape(len(weight), -1, block)


def from_blocks(blocks: torch.Tensor, width: int) -> torch.Tensor:
    """The weight (O, width) that `to_blocks` cut."""
    return blocks.reshape(len(blocks), -1)[:, :width]


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """INT4 codes in -8..7 (an even number in the last dimension), two to a byte, low one first."""
    unsigned = (codes & 0xF).to(torch.uint8)
    return unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The codes (int8) of `pack_nibbles`."""
    low, high = packed & 0xF, packed >> 4
    codes = torch.stack([low, high], dim=-1).flatten(-2).to(torch.int8)
    return torch.where(codes > 7, codes - 16, codes)


def _int_scale(amax: torch.Tensor, bound: float, of_zero: float) -> torch.Tensor:
    amax = amax.float()
    # Tensor by tensor: torch computes number / tensor as a product with the reciprocal.
    scale = torch.full_like(amax, bound) / amax
    return torch.where(amax <= TINY, torch.full_like(amax, of_zero), scale)


def _fp8_scale(amax: torch.Tensor) -> torch.Tensor:
    amax = amax.float()
    return FP8_MAX / torch.where(amax <= TINY, torch.ones_like(amax), amax)
