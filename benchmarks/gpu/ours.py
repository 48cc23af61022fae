"""The product's own kernels as the session calls them: the one place that knows their names."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.data import MODEL, Product

Tensor = torch.Tensor


def tiles(kind: str, interpreted: bool) -> tuple[Any, ...]:
    """Tiles to try for `plain`, `residual`, `geglu`, `conv` or `attention`."""
    from sdxl.kernels import attention, gemm

    if kind == "attention":
        return (attention.SMALL,) if interpreted else tuple(attention.TILES)
    return (gemm.SMALL,) if interpreted else tuple(gemm.TILES)


def named(tile: Any) -> str:
    """A tile in a table."""
    return f"{tile.BM}x{tile.BN}x{tile.BK} w{tile.num_warps} s{tile.num_stages}"


def product(given: Product, tile: Any, residual: bool) -> Tensor:
    """(M, N) in bf16: scaled, with bias, with the residual."""
    from sdxl.kernels.gemm import gemm

    rest = given.residual if residual else None
    return gemm(given.left, given.right, given.scale, given.bias, rest, MODEL, tile)


def product_geglu(given: Product, tile: Any) -> Tensor:
    """Codes (M, N / 2) of value * gelu(gate)."""
    from sdxl.kernels.gemm import gemm_geglu

    return gemm_geglu(
        given.left, given.right, given.scale, given.bias, None, given.per_unit, MODEL, tile
    )


def convolution(given: Product, tile: Any, residual: bool = True) -> Tensor:
    """(N, h, w, O) in bf16, with bias and residual."""
    from sdxl.kernels.conv import conv

    rest = given.residual if residual else None
    return conv(given.left, given.right, given.scale, given.bias, rest, 1, 1, MODEL, tile)


def attention(
    query: Tensor, key: Tensor, value: Tensor, unit: float, per_unit: float, tile: Any
) -> Tensor:
    """(B, L, heads, width) in bf16 from E4M3 codes of the same layout."""
    from sdxl.kernels.attention import attention as run

    scale = query.shape[-1] ** -0.5
    return run(query, key, value, (unit,) * 3, scale, per_unit, MODEL, tile)


def quantize(given: Tensor, per_unit: Tensor, code: torch.dtype) -> Tensor:
    """Codes of values (M, K)."""
    from sdxl.kernels.quantize import quantize as run

    return run(given, None, per_unit, code)


def geglu(hidden: Tensor, per_unit: Tensor, code: torch.dtype) -> Tensor:
    """Codes (M, K) of value * gelu(gate) for (M, 2K)."""
    from sdxl.kernels.quantize import geglu_quantize

    return geglu_quantize(hidden, None, per_unit, code)


def layer_norm(
    given: Tensor, weight: Tensor, bias: Tensor, per_unit: Tensor, code: torch.dtype
) -> Tensor:
    """Codes (P, M, K) for P consumers; per_unit (P,)."""
    from sdxl.kernels.quantize import layer_norm_quantize

    return layer_norm_quantize(given, weight, bias, 1e-5, None, per_unit, code)


def group_norm(
    image: Tensor, weight: Tensor, bias: Tensor, per_unit: Tensor, code: torch.dtype,
    skip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Codes (N, h, w, C) of silu(norm(image)), 32 groups, a skip's channels behind its own."""
    from sdxl.kernels.quantize import group_norm_silu_quantize

    return group_norm_silu_quantize(image, 32, weight, bias, 1e-5, per_unit, code, skip)


def euler(
    latents: Tensor, predicted: Tensor, guidance: float, sigma: Tensor, after: Tensor, out: Tensor
) -> None:
    """One Euler step with guidance, in place."""
    from sdxl.kernels.euler import euler_step

    euler_step(latents, predicted, guidance, sigma, after, out)
