"""The product's own kernels as the session calls them: the one place that knows their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.data import MODEL, Product

Tensor = torch.Tensor


def tiles(kind: str) -> tuple[Any, ...]:
    """Tiles to try for `plain`, `geglu`, `conv` or `attention`: those that fit this device.

    Under Triton's interpreter a small one, with and without the copies of Hopper's own unit.
    """
    from sdxl.backends.torch.kernels import tiles as lists
    from sdxl.backends.torch.kernels import tuning

    if tuning.interpreted():
        if kind == "attention":
            return (lists.SMALL_HEADS,)
        return lists.SMALL, replace(lists.SMALL, TMA=True)
    listed = {"plain": lists.PLAIN, "geglu": lists.GEGLU, "conv": lists.CONV,
              "attention": lists.ATTENTION}[kind]  # fmt: skip
    major, minor = torch.cuda.get_device_capability()
    return lists.fitting(listed, 10 * major + minor)


def few(kind: str) -> tuple[Any, ...]:
    """The first tile that copies by addresses, and the first that does not."""
    listed = tiles(kind)
    kinds = {bool(getattr(tile, "TMA", False)): tile for tile in reversed(listed)}
    return tuple(kinds[key] for key in sorted(kinds))


def product(given: Product, tile: Any, residual: bool) -> Tensor:
    """(M, N) in bf16: scaled, with bias, with the residual."""
    from sdxl.backends.torch.kernels.gemm import gemm

    rest = given.residual if residual else None
    return gemm(given.left, given.right, given.scale, given.bias, rest, MODEL, tile)


def paired(given: Product) -> Product:
    """The same with value and gate taking turns, as the kernel with GEGLU reads them."""
    from sdxl.backends.torch.kernels.gemm import paired as turn

    right, scale, bias = map(turn, (given.right, given.scale, given.bias))
    return replace(given, right=right, scale=scale, bias=bias)


def product_geglu(turned: Product, tile: Any) -> Tensor:
    """Codes (M, N / 2) of value * gelu(gate) for what `paired` gives."""
    from sdxl.backends.torch.kernels.gemm import gemm_geglu

    return gemm_geglu(
        turned.left, turned.right, turned.scale, turned.bias, None, turned.per_unit, MODEL, tile
    )


def framed(given: Product) -> Product:
    """The same with a row and a column of zeros behind each image, as the norm writes them."""
    from sdxl.backends.torch.kernels.reference import framed as frame

    return replace(given, left=frame(given.left))


def convolution(given: Product, tile: Any) -> Tensor:
    """(N, h, w, O) in bf16 for what `framed` gives, with bias and residual."""
    from sdxl.backends.torch.kernels.conv import framed_conv

    return framed_conv(
        given.left, given.right, given.scale, given.bias, given.residual, MODEL, tile
    )


def attention(
    query: Tensor, key: Tensor, value: Tensor, unit: float, per_unit: float, tile: Any
) -> Tensor:
    """(B, L, heads, width) in bf16 from E4M3 codes of the same layout."""
    from sdxl.backends.torch.kernels.attention import attention as run

    scale = query.shape[-1] ** -0.5
    return run(query, key, value, (unit,) * 3, scale, per_unit, MODEL, tile)


def quantize(given: Tensor, per_unit: Tensor, code: torch.dtype) -> Tensor:
    """Codes of values (M, K)."""
    from sdxl.backends.torch.kernels.quantize import quantize as run

    return run(given, None, per_unit, code)


def geglu(hidden: Tensor, per_unit: Tensor, code: torch.dtype) -> Tensor:
    """Codes (M, K) of value * gelu(gate) for (M, 2K)."""
    from sdxl.backends.torch.kernels.quantize import geglu_quantize

    return geglu_quantize(hidden, None, per_unit, code)


def layer_norm(
    given: Tensor, weight: Tensor, bias: Tensor, per_unit: Tensor, code: torch.dtype
) -> Tensor:
    """Codes (P, M, K) for P consumers; per_unit (P,)."""
    from sdxl.backends.torch.kernels.quantize import layer_norm_quantize

    return layer_norm_quantize(given, weight, bias, 1e-5, None, per_unit, code)


def group_norm(
    image: Tensor, weight: Tensor, bias: Tensor, per_unit: Tensor, code: torch.dtype,
    skip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Codes (N, h, w, C) of silu(norm(image)), 32 groups, a skip's channels behind its own."""
    from sdxl.backends.torch.kernels.group_norm import group_norm_quantize

    return group_norm_quantize(image, 32, weight, bias, 1e-5, per_unit, code, skip)


def euler(
    latents: Tensor, predicted: Tensor, guidance: float, sigma: Tensor, after: Tensor, out: Tensor
) -> None:
    """One Euler step with guidance, in place."""
    from sdxl.backends.torch.kernels.euler import euler_step

    euler_step(latents, predicted, guidance, sigma, after, out)
