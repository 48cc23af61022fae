"""Guidance, the Euler step and the scaling of the next input in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sdxl.backends.torch.kernels.rounding import narrow

BLOCK = 1024


@triton.jit
def _euler(
    latents, predicted, sigma, sigma_next, guidance, scaled, size,
    GUIDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    now, then = tl.load(sigma), tl.load(sigma_next)
    noise = tl.load(predicted + at, mask=inside, other=0.0).to(tl.float32)
    if GUIDED:
        positive = tl.load(predicted + size + at, mask=inside, other=0.0).to(tl.float32)
        noise = noise + guidance * (positive - noise)
    moved = tl.load(latents + at, mask=inside, other=0.0) + noise * (then - now)
    tl.store(latents + at, moved, mask=inside)
    given = narrow(moved / tl.sqrt(then * then + 1.0), scaled.dtype.element_ty)
    tl.store(scaled + at, given, mask=inside)
    if GUIDED:
        tl.store(scaled + size + at, given, mask=inside)


def euler_step(
    latents: torch.Tensor, predicted: torch.Tensor, guidance: float,
    sigma: torch.Tensor, sigma_next: torch.Tensor, scaled: torch.Tensor,
) -> None:  # fmt: skip
    """`reference.euler_step` in place: `latents` (fp32) move, `scaled` becomes the next input.

    The sigmas are 0-d tensors, so that a captured graph reads them anew at every replay.
    """
    assert latents.is_contiguous() and scaled.is_contiguous() and latents.dtype is torch.float32
    assert scaled.shape == predicted.shape, (scaled.shape, predicted.shape)
    size = latents.numel()
    _euler[(triton.cdiv(size, BLOCK),)](
        latents, predicted.contiguous(), sigma, sigma_next, guidance, scaled, size,
        GUIDED=len(predicted) != len(latents), BLOCK=BLOCK,
    )  # fmt: skip
