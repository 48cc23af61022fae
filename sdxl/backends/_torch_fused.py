"""Blocks of the UNet whose norms, activations and residuals go with their 8-bit products.

Each takes the place of diffusers' own and keeps the names of its parts. A norm writes the codes of
all layers that read it, GEGLU those of the next layer, and a product adds the residual. Where a
layer's kernel takes no codes, or is not chosen yet, the values go in as they are: every call is
complete, whatever is fused. No division by 1, no dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdxl.backends import _torch_resnet, _torch_transformer
from sdxl.backends._torch_layer import Layer, joined
from sdxl.backends._torch_parts import Part, plain_attention, plus, takes_codes

Tensor = torch.Tensor


def _alike(layers: list[Any]) -> bool:
    """All take codes, of one number format, and all or none of them are smoothed."""
    if not all(map(takes_codes, layers)):
        return False
    smoothed = {layer.kernel.input.factors is None for layer in layers}
    return len(smoothed) == 1 and len({layer.code for layer in layers}) == 1


class Block(nn.Module):
    """diffusers' transformer block: self-attention, cross-attention, feed-forward with GEGLU."""

    ff: Any

    def __init__(self, plain: Any, home: Any) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.norm_codes = Part("norm", home.layer_norm_codes)
        self.geglu_codes = Part("activation", home.geglu_codes)
        self.geglu = Part("activation", _geglu)
        self.attend = Part("attention", _attend)

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:  # fmt: skip
        """Hidden states (B, L, C); the rest is what SDXL's UNet never has."""
        assert attention_mask is None and encoder_attention_mask is None
        hidden = self._attention(self.attn1, self.norm1, hidden, None)
        hidden = self._attention(self.attn2, self.norm2, hidden, encoder_hidden_states)
        return self._feed_forward(hidden)

    def _attention(self, attn: Any, norm: Any, hidden: Tensor, context: Tensor | None) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        if context is None:
            query, key, value = self._of_norm(norm, flat, parts(attn, "q", "k", "v"))
        else:
            (query,) = self._of_norm(norm, flat, [attn.to_q])
            found = [layer(context) for layer in parts(attn, "k", "v")]
            key, value = found[0].chunk(2, dim=-1) if len(found) == 1 else found
        batch, heads = len(hidden), attn.heads
        given = (
            each.reshape(batch, -1, heads, each.shape[-1] // heads).transpose(1, 2)
            for each in (query, key, value)
        )
        found = self.attend(attn.processor, *given).transpose(1, 2).reshape(len(flat), -1)
        return plus(attn.to_out[0], found, flat).view_as(hidden)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        net: Any = self.ff.net
        first, last = net[0].proj, net[2]
        if not takes_codes(last):
            (wide,) = self._of_norm(self.norm3, flat, [first])
            return plus(last, self.geglu(wide), flat).view_as(hidden)
        wanted = last.kernel.input
        same = takes_codes(first) and first.code == last.code
        if same and hasattr(first.kernel, "geglu"):
            (coded,) = self._codes_of_norm(self.norm3, flat, [first])
            made = first.kernel.geglu(coded, wanted)
        else:
            (wide,) = self._of_norm(self.norm3, flat, [first])
            made = self.geglu_codes(wide, wanted.factors, wanted.per_unit, last.code)
        return last(made, coded=True, residual=flat).view_as(hidden)

    def _of_norm(self, norm: Any, flat: Tensor, layers: list[Any]) -> list[Tensor]:
        """What the layers make of norm(flat) (M, K); one that stands for three is cut in three."""
        if _alike(layers):
            coded = self._codes_of_norm(norm, flat, layers)
            found = [layer(c, coded=True) for layer, c in zip(layers, coded, strict=True)]
        else:
            normed = norm(flat)
            found = [layer(normed) for layer in layers]
        pieces = getattr(layers[0], "pieces", 1)
        return list(found[0].chunk(pieces, dim=-1)) if pieces > 1 else found

    def _codes_of_norm(self, norm: Any, flat: Tensor, layers: list[Any]) -> list[Tensor]:
        inputs = [layer.kernel.input for layer in layers]
        return self.norm_codes(flat, norm, inputs, layers[0].code)


def parts(attn: Any, *names: str) -> list[Any]:
    """The projections of an attention layer: each, or the one that stands for them."""
    one = getattr(attn, "to_" + "".join(names), None)
    return [one] if one is not None else [getattr(attn, f"to_{name}") for name in names]


def fuse(unet: Any, choice: Any) -> None:
    """Put fused blocks where diffusers' have the expected parts; `choice` counts both kinds."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    for name, module in list(unet.named_modules()):
        if isinstance(module, BasicTransformerBlock):
            kind, reason = "blocks", _why_no_block(module)
        elif isinstance(module, ResnetBlock2D):
            kind, reason = "resnets", _torch_resnet.why_not(module, choice.home)
        else:
            continue
        if reason:
            choice.unfused[reason] += 1
            continue
        choice.fused[kind] += 1
        if kind == "blocks":
            for attn, names in ((module.attn1, "qkv"), (module.attn2, "kv")):
                if _join(attn, names, choice):
                    choice.fused[f"joined {names}"] += 1
        fused = Block if kind == "blocks" else _torch_resnet.Resnet
        unet.set_submodule(name, fused(module, choice.home))
    _torch_transformer.replace(unet, choice)
    if joins := _torch_resnet.join(unet):
        choice.fused["skips beside"] += joins


def _join(attn: Any, names: str, choice: Any) -> bool:
    """One product in place of two or three, where they round their input in the same way.

    With SmoothQuant they do only if the factors agree (alpha=1); without it always.
    """
    from sdxl.backends._torch_real import EightBit

    layers = [getattr(attn, f"to_{name}") for name in names]
    held = [layer.layer for layer in layers if isinstance(layer, EightBit) and layer.layer]
    if len(held) < len(names) or not all(_same_input(held[0], other) for other in held[1:]):
        return False
    for name in names:
        delattr(attn, f"to_{name}")
    one = EightBit(joined(held), choice)
    one.pieces = len(names)
    setattr(attn, f"to_{names}", one)
    return True


def _same_input(one: Layer, other: Layer) -> bool:
    same = torch.equal(one.input.amax, other.input.amax) and one.format is other.format
    ours, theirs = one.input.factors, other.input.factors
    if ours is None or theirs is None:
        return same and ours is theirs
    return same and torch.equal(ours, theirs)


def _why_no_block(block: Any) -> str:
    """Why a transformer block stays as it is; empty if it need not."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.attention_processor import AttnProcessor2_0

    from sdxl.backends._torch_real import EightBit

    attentions = [block.attn1, block.attn2]
    if not any(isinstance(part, EightBit) for part in block.modules()):
        return "a transformer block without 8-bit layers"
    if any(not isinstance(attn.processor, AttnProcessor2_0) for attn in attentions):
        return "a transformer block whose attention is simulated"
    expected = (
        block.norm_type == "layer_norm"
        and block.pos_embed is None
        and not block.only_cross_attention
        and block._chunk_size is None
        and isinstance(block.ff.net[0], GEGLU)
        and len(block.ff.net) == 3
        and all(_affine(norm) for norm in (block.norm1, block.norm2, block.norm3))
        and all(map(plain_attention, attentions))
    )
    return "" if expected else "a transformer block of another kind than SDXL's"


def _geglu(wide: Tensor) -> Tensor:
    value, gate = wide.chunk(2, dim=-1)
    return value * functional.gelu(gate)


def _attend(processor: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    choice = getattr(processor, "choice", None)
    attend = choice.attend if choice else functional.scaled_dot_product_attention
    return attend(query, key, value)


def _affine(norm: Any) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
