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

from sdxl.backends.torch import resnet, transformer
from sdxl.backends.torch.block import Block
from sdxl.backends.torch.layer import Layer, joined
from sdxl.backends.torch.parts import plain_attention


def fuse(unet: Any, choice: Any) -> None:
    """Put fused blocks where diffusers' have the expected parts; `choice` counts both kinds."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    for name, module in list(unet.named_modules()):
        if isinstance(module, BasicTransformerBlock):
            kind, reason = "blocks", _why_no_block(module)
        elif isinstance(module, ResnetBlock2D):
            kind, reason = "resnets", resnet.why_not(module, choice.home)
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
        fused = Block if kind == "blocks" else resnet.Resnet
        unet.set_submodule(name, fused(module, choice.home))
    transformer.replace(unet, choice)
    if joins := resnet.join(unet):
        choice.fused["skips beside"] += joins


def _join(attn: Any, names: str, choice: Any) -> bool:
    """One product in place of two or three, where they round their input in the same way.

    With SmoothQuant they do only if the factors agree (alpha=1); without it always.
    """
    from sdxl.backends.torch.eight_bit import EightBit

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

    from sdxl.backends.torch.eight_bit import EightBit

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


def _affine(norm: Any) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
