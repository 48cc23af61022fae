"""Attention in FP8, as level 4 asks for: codes of q, k, v and of the softmax, products of codes.

Timed for each shape against attention in 16 bits, which has faster kernels; what is slower in FP8
stays in 16 bits, and the record says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn import functional

from sdxl.backends.torch import attention as _torch_attention
from sdxl.backends.torch import clock, cuda
from sdxl.backends.torch.kernels.words import short
from sdxl.backends.torch.parts import plain_attention
from sdxl.model import codes
from sdxl.model.checkpoint import ATTENTION_PARTS, Checkpoint

E4M3 = torch.float8_e4m3fn
PLAIN = "attention in 16 bits"
"""The layer's kernel in a record where FP8 is slower."""

Times = dict[str, float]
Report = Callable[[tuple[Any, ...], Times], None]
_times: dict[tuple[Any, ...], Times] = {}
"""Milliseconds by kernel of every shape; layers of one shape share them."""


class TritonAttention:
    """The Triton kernel with the ranges of one layer, its tile tuned for the shape."""

    name = "triton_attention"

    def __init__(
        self, amax: dict[str, torch.Tensor], device: torch.device, report: Report | None = None
    ) -> None:
        self._device, self._report = device, report
        self.plain: Callable[..., torch.Tensor] = functional.scaled_dot_product_attention
        per_unit = {part: codes.fp8_per_unit(amax[part]) for part in ATTENTION_PARTS}
        self._per_unit = [per_unit[part].to(device) for part in "qkv"]
        self._units = tuple(1 / float(per_unit[part]) for part in "qkv")
        self._softmax = float(per_unit["softmax"])

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention (B, heads, length, width) without a mask, by what is faster for the shape."""
        from sdxl.backends.torch.kernels import tuning

        if tuning.interpreted():  # time says nothing there
            return self.in_fp8(query, key, value)
        shape = (tuple(query.shape), tuple(key.shape), query.dtype)
        if shape not in _times:
            _times[shape] = {
                name: clock.ms(partial(run, query, key, value), self._device)
                for name, run in ((self.name, self.in_fp8), (PLAIN, self.plain))
            }
        times = _times[shape]
        if self._report:
            self._report(shape, times)
        faster = self.plain if times[PLAIN] < times[self.name] else self.in_fp8
        return faster(query, key, value)

    def in_fp8(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention (B, heads, length, width) without a mask, as the simulated layer computes."""
        from sdxl.backends.torch.kernels import attention, quantize, tiles, tuning

        def coded(values: torch.Tensor, per_unit: torch.Tensor) -> torch.Tensor:
            rows = values.transpose(1, 2)  # as the projections wrote them
            flat = rows.reshape(rows.shape[0] * rows.shape[1], -1)
            return quantize.quantize(flat, None, per_unit, E4M3).view(rows.shape)

        q, k, v = map(coded, (query, key, value), self._per_unit)
        scale = query.shape[-1] ** -0.5

        def run(tile: Any) -> torch.Tensor:
            return attention.attention(
                q, k, v, self._units, scale, self._softmax, query.dtype, tile
            )  # fmt: skip

        shape = ("attention", tuple(query.shape), tuple(key.shape), query.dtype)
        outputs, small = query.numel(), tiles.SMALL_HEADS
        tile = tuning.fastest(shape, run, tiles.ATTENTION, outputs, small)
        return run(tile).transpose(1, 2)


class Attend(AttnProcessor2_0):
    """diffusers' processor with the kernel in the place of PyTorch's."""

    def __init__(self, choice: TritonAttention) -> None:
        super().__init__()
        self.choice = choice

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """The layer's output (B, L, C); `why_not` has let no other kind of layer in."""
        assert attention_mask is None
        return _torch_attention.projected(
            self.choice.attend, attn, hidden_states, encoder_hidden_states
        )

    def beside(self, plain: Callable[..., torch.Tensor]) -> None:
        """The kernel for 16 bits that the run's setting asks for."""
        self.choice.plain = plain


def why_not(attn: Any, home: Any, device: torch.device) -> str | None:
    """The reason why an attention layer can only be simulated; None if the kernel computes it."""
    if home is not cuda:
        return "no FP8 attention kernel on this device"
    if reason := _why_not_exact(device):
        return f"no exact FP8 attention kernel on this device: {reason}"
    return None if plain_attention(attn) else "an attention layer of another kind than SDXL's"


def install(
    attn: Any, name: str, stored: Checkpoint, device: torch.device, report: Report | None = None
) -> None:
    """Let an attention layer compute with the ranges that its checkpoint has.

    report: called with the shape and the milliseconds by kernel when the layer has chosen.
    """
    amax = {part: stored.tensor(f"{name}.{part}_amax") for part in ATTENTION_PARTS}
    attn.set_processor(Attend(TritonAttention(amax, device, report)))


@cache
def _why_not_exact(device: torch.device) -> str:
    """Why the kernel cannot be used here; empty if it is right: one key that wins, and ties."""
    amax = {part: torch.tensor(codes.FP8_MAX) for part in "qkv"} | {"softmax": torch.tensor(1.0)}
    chosen = torch.eye(32, device=device).mul(32).expand(1, 1, 32, 32)
    query = torch.cat([chosen, torch.zeros_like(chosen)], dim=2)
    value = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    value = value.mul(64).to(E4M3).float()
    expected = torch.cat([value, value.mean(2, keepdim=True).expand_as(value)], dim=2)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        found = TritonAttention(amax, device).in_fp8(
            *(each.to(dtype) for each in (query, chosen, value))
        )
    except Exception as error:  # a kernel that cannot be built here, for whatever reason
        return short(error)
    bound = 2**-7 * float(value.abs().max())
    off = float((found.float() - expected).abs().max())
    return "" if off <= bound else f"off by {off:.3g}, at most {bound:.3g} expected"
