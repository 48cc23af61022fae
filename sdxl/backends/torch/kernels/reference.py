"""What the kernels compute, in plain PyTorch: the same formulas, one operation after the other.

Codes are int8 or float8_e4m3fn. `per_unit` is the number of codes in one unit of value (0-d fp32);
`factors` are SmoothQuant's, (K,) in the model's dtype, or None. Images are channels-last rows: a
tensor (N, H, W, C).
"""

from __future__ import annotations

import torch
from torch.nn import functional

from sdxl.model.codes import FP8_MAX, INT_BOUND

Tensor = torch.Tensor


def quantize(
    values: Tensor, factors: Tensor | None, per_unit: Tensor, dtype: torch.dtype
) -> Tensor:
    """Codes of values (M, K): smoothed in their own dtype, scaled in fp32, rounded to even."""
    smoothed = values if factors is None else values * factors
    scaled = smoothed.float() * per_unit
    if dtype is torch.int8:
        bound = INT_BOUND[8]
        return scaled.round().clamp(-bound - 1, bound).to(dtype)
    return scaled.clamp(-FP8_MAX, FP8_MAX).to(dtype)


def layer_norm_quantize(
    values: Tensor, weight: Tensor, bias: Tensor, eps: float,
    factors: Tensor | None, per_unit: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Codes (P, M, K) of a layer norm for P consumers, each with factors (P, K), per_unit (P,)."""
    normed = functional.layer_norm(
        values.float(), values.shape[-1:], weight.float(), bias.float(), eps
    )
    normed = normed.to(values.dtype)
    parts = [
        quantize(normed, None if factors is None else factors[part], scale, dtype)
        for part, scale in enumerate(per_unit)
    ]
    return torch.stack(parts)


def group_norm_quantize(
    image: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float,
    per_unit: Tensor, dtype: torch.dtype, skip: Tensor | None = None,
    added: Tensor | None = None, activate: bool = True, frame: bool = False,
) -> Tensor:  # fmt: skip
    """Codes of silu(group_norm(image)), image (N, H, W, C); a skip's channels follow its own.

    added: (N, C), part of every pixel; activate: with SiLU; frame: a row and a column of zeros
    after each image, (N, H + 1, W + 1, C), which is all the padding a 3 x 3 convolution needs.
    """
    image = image if skip is None else torch.cat([image, skip], dim=-1)
    planes = image.permute(0, 3, 1, 2).float()
    planes = planes if added is None else planes + added.float()[:, :, None, None]
    normed = functional.group_norm(planes, groups, weight.float(), bias.float(), eps)
    normed = normed.to(image.dtype)
    active = functional.silu(normed.float()).to(image.dtype) if activate else normed
    coded = quantize(active.permute(0, 2, 3, 1).contiguous(), None, per_unit, dtype)
    return framed(coded) if frame else coded


def framed(coded: Tensor) -> Tensor:
    """Codes (N, H, W, C) -> (N, H + 1, W + 1, C), zeros behind every row and image."""
    return functional.pad(coded.view(torch.int8), (0, 0, 0, 1, 0, 1)).view(coded.dtype)


def geglu_quantize(
    hidden: Tensor, factors: Tensor | None, per_unit: Tensor, dtype: torch.dtype
) -> Tensor:
    """Codes (M, K) of value * gelu(gate) for hidden (M, 2K) = value | gate."""
    value, gate = hidden.chunk(2, dim=-1)
    return quantize(value * functional.gelu(gate), factors, per_unit, dtype)


def gemm(
    left: Tensor, right: Tensor, scale: Tensor, bias: Tensor | None,
    residual: Tensor | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """left (M, K) x right (N, K) of codes -> (M, N): times scale (N,), plus bias, plus residual."""
    found = (left.double() @ right.double().t()).float() * scale
    found = found if bias is None else found + bias.float()
    return (found if residual is None else found + residual.float()).to(dtype)


def gemm_geglu(
    left: Tensor, right: Tensor, scale: Tensor, bias: Tensor | None,
    factors: Tensor | None, per_unit: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Codes (M, N) of value * gelu(gate), where left x right (2N, K) = value | gate.

    Products stay in fp32 up to the smoothing; `dtype` is the model's, which rounds before the code.
    """
    value, gate = gemm(left, right, scale, bias, None, torch.float32).chunk(2, dim=-1)
    return quantize((value * functional.gelu(gate)).to(dtype), factors, per_unit, left.dtype)


def conv(
    image: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, residual: Tensor | None,
    stride: int, padding: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Convolution of codes: image (N, H, W, C), weight (O, kh, kw, C) -> (N, h, w, O)."""
    planes = functional.conv2d(
        image.permute(0, 3, 1, 2).double(),
        weight.permute(0, 3, 1, 2).double(),
        None,
        stride,
        padding,
    )
    found = planes.permute(0, 2, 3, 1).float() * scale
    found = found if bias is None else found + bias.float()
    return (found if residual is None else found + residual.float()).to(dtype)


def attention(
    query: Tensor, key: Tensor, value: Tensor, units: tuple[float, ...], scale: float,
    per_unit: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """softmax(query key^T * scale) value of E4M3 codes (B, L, heads, width), softmax in codes too.

    units: what one code of query, key and value stands for; per_unit: codes in a softmax of 1.
    """
    q, k, v = (codes.double().transpose(1, 2) for codes in (query, key, value))
    scores = (q @ k.transpose(-1, -2)).float() * (units[0] * units[1] * scale)
    shares = scores.softmax(-1).to(dtype)
    coded = quantize(shares, None, torch.tensor(per_unit), torch.float8_e4m3fn)
    found = (coded.double() @ v).float() * (units[2] / per_unit)
    return found.transpose(1, 2).to(dtype)


def euler_step(
    latents: Tensor, predicted: Tensor, guidance: float, sigma: Tensor, sigma_next: Tensor
) -> tuple[Tensor, Tensor]:
    """Guidance, one Euler step, and the next model input.

    latents (B, ...) in fp32; predicted (2B, ...) negative rows first, or (B, ...) without guidance.
    Returns the new latents and the input of as many rows as `predicted`, in its dtype.
    """
    noise = predicted.float()
    if len(predicted) != len(latents):
        negative, positive = noise.chunk(2)
        noise = negative + guidance * (positive - negative)
    moved = latents + noise * (sigma_next - sigma)
    scaled = (moved / (sigma_next * sigma_next + 1).sqrt()).to(predicted.dtype)
    return moved, scaled if len(predicted) == len(latents) else torch.cat([scaled, scaled])
