"""Attention in FP8, as level 4 asks for: codes of q, k, v and of the softmax, products of codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn import functional

from sdxl.backends.torch import cuda
from sdxl.backends.torch.kernels.words import short
from sdxl.backends.torch.parts import plain_attention
from sdxl.model import codes
from sdxl.model.checkpoint import ATTENTION_PARTS, Checkpoint

E4M3 = torch.float8_e4m3fn

_eight_bit: dict[tuple[Any, ...], bool] = {}
"""Whether attention is faster in 8 bits, by shape."""


class TritonAttention:
    """The Triton kernel with the ranges of one layer, its tile tuned for the shape."""

    name = "triton_attention"
    plain = "16-bit attention"
    """What computes a shape where PyTorch's attention, which rounds nothing, is faster."""

    def __init__(
        self, amax: dict[str, torch.Tensor], device: torch.device,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:  # fmt: skip
        per_unit = {part: codes.fp8_per_unit(amax[part]) for part in ATTENTION_PARTS}
        self._per_unit = [per_unit[part].to(device) for part in "qkv"]
        self._units = tuple(1 / float(per_unit[part]) for part in "qkv")
        self._softmax = float(per_unit["softmax"])
        self._note = note

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention (B, heads, length, width) without a mask, in 8 bits where that is faster."""
        from sdxl.backends.torch.kernels import tuning

        given = (query, key, value)
        shape = (tuple(query.shape), tuple(key.shape), query.dtype)
        if shape not in _eight_bit:
            _eight_bit[shape] = tuning.interpreted() or tuning.milliseconds(
                lambda: self.computed(*given)
            ) < tuning.milliseconds(lambda: functional.scaled_dot_product_attention(*given))
        if _eight_bit[shape]:
            return self.computed(*given)
        self._note(self.plain)
        return functional.scaled_dot_product_attention(*given)

    def computed(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention (B, heads, length, width) without a mask, in 8 bits."""
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
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(values).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, values in (
                (attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context)
            )
        )  # fmt: skip
        found = self.choice.attend(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[0](found)


def why_not(attn: Any, home: Any, device: torch.device) -> str | None:
    """The reason why an attention layer can only be simulated; None if the kernel computes it."""
    if home is not cuda:
        return "no exact FP8 attention kernel on this device"
    if reason := _inexact(device):
        return f"no exact FP8 attention kernel on this device ({reason})"
    return None if plain_attention(attn) else "an attention layer of another kind than SDXL's"


def install(
    attn: Any, name: str, stored: Checkpoint, device: torch.device,
    note: Callable[[str], object] = lambda _: None,
) -> None:  # fmt: skip
    """Let an attention layer compute with the ranges that its checkpoint has.

    `note` is told what computes it where that is not the 8-bit kernel.
    """
    amax = {part: stored.tensor(f"{name}.{part}_amax") for part in ATTENTION_PARTS}
    attn.set_processor(Attend(TritonAttention(amax, device, note)))


@cache
def _inexact(device: torch.device) -> str:
    """Why the kernel is not used here, empty if it is right: a key that wins, keys that tie."""
    amax = {part: torch.tensor(codes.FP8_MAX) for part in "qkv"} | {"softmax": torch.tensor(1.0)}
    chosen = torch.eye(32, device=device).mul(32).expand(1, 1, 32, 32)
    query = torch.cat([chosen, torch.zeros_like(chosen)], dim=2)
    value = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    value = value.mul(64).to(E4M3).float()
    expected = torch.cat([value, value.mean(2, keepdim=True).expand_as(value)], dim=2)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        found = TritonAttention(amax, device).computed(
            *(each.to(dtype) for each in (query, chosen, value))
        )
    except Exception as error:  # a kernel that cannot be built here, for whatever reason
        return short(error)
    apart = float((found.float() - expected).abs().max() / value.abs().max())
    return "" if apart <= 2**-7 else f"wrong by {apart:.2g} of the largest"
