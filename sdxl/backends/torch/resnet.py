"""Residual blocks with 8-bit convolutions, and a way up that joins image and skip without a copy.

A norm reads both where they lie and writes their codes; the shortcut is a sum of two products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdxl.backends.torch.parts import Part, plus, takes_codes


class Resnet(nn.Module):
    """diffusers' residual block where both convolutions take codes, which only a GPU's do."""

    time_emb_proj: Any

    def __init__(self, plain: Any, home: Any) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.conv_shortcut: Any = plain.conv_shortcut  # None is no child
        self.norm_codes = Part("norm", home.group_norm_codes)

    def forward(self, image: Tensor, temb: Tensor, skip: Tensor | None = None) -> Tensor:
        """Image (N, C, h, w), time embedding (N, T) -> (N, O, h, w), channels-last.

        skip: (N, S, h, w), whose channels follow the image's.
        """
        embedded = self.time_emb_proj(functional.silu(temb))
        hidden = self._conv(self.norm1, self.conv1, image, skip=skip)
        shortcut = self._shortcut(image, skip)
        return self._conv(self.norm2, self.conv2, hidden, added=embedded, residual=shortcut)

    def _conv(
        self, norm: Any, layer: Any, image: Tensor, skip: Tensor | None = None,
        added: Tensor | None = None, residual: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """layer(silu(norm(image and skip, plus added (N, C) everywhere))) + residual."""
        if not takes_codes(layer):
            given = _joined(image, skip)
            given = given if added is None else given + added[:, :, None, None]
            return plus(layer, functional.silu(norm(given)), residual)
        pixels = image.permute(0, 2, 3, 1)
        rest = skip if skip is None else skip.permute(0, 2, 3, 1)
        coded = self.norm_codes(pixels, norm, layer, rest, added)
        return layer(coded, coded=True, residual=residual)

    def _shortcut(self, image: Tensor, skip: Tensor | None) -> Tensor:
        conv = self.conv_shortcut
        if conv is None:
            return _joined(image, skip)
        if skip is None or not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1):
            found: Tensor = conv(_joined(image, skip))
            return found
        own, other = conv.weight.split([image.shape[1], skip.shape[1]], dim=1)
        return functional.conv2d(image, own, conv.bias).add_(functional.conv2d(skip, other))


class Up(nn.Module):
    """diffusers' block on the way up, whose residual blocks take the skip beside the image."""

    resnets: Any
    attentions: Any
    joins = True  # its residual blocks take the skip beside the image

    def __init__(self, plain: Any) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.has_cross_attention = hasattr(plain, "attentions")  # the UNet asks for it
        self.upsamplers: Any = plain.upsamplers  # None is no child

    def forward(
        self, hidden_states: Tensor, res_hidden_states_tuple: tuple[Tensor, ...], temb: Tensor,
        encoder_hidden_states: Tensor | None = None, upsample_size: Any = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        """As diffusers'; the rest is what SDXL's UNet never has."""
        attentions: Any = (
            self.attentions if self.has_cross_attention else [None] * len(self.resnets)
        )
        skips = reversed(res_hidden_states_tuple)
        for resnet, attention, skip in zip(self.resnets, attentions, skips, strict=True):
            hidden_states = resnet(hidden_states, temb, skip)
            if attention is not None:
                hidden_states = attention(
                    hidden_states, encoder_hidden_states=encoder_hidden_states, return_dict=False
                )[0]
        for upsampler in self.upsamplers or ():
            hidden_states = upsampler(hidden_states, upsample_size)
        return hidden_states


def _joined(image: Tensor, skip: Tensor | None) -> Tensor:
    return image if skip is None else torch.cat([image, skip], dim=1)


def join(unet: Any) -> int:
    """Give the way up to `Up` where all residual blocks are ours; returns how many there are."""
    from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D

    ours = [
        (name, module)
        for name, module in unet.named_modules()
        if isinstance(module, CrossAttnUpBlock2D | UpBlock2D)
        and all(isinstance(resnet, Resnet) for resnet in module.resnets)
    ]
    for name, module in ours:
        unet.set_submodule(name, Up(module))
    return sum(len(module.resnets) for _, module in ours)


def why_not(block: Any, home: Any) -> str:
    """Why a residual block stays as it is; empty if it need not."""
    from sdxl.backends.torch.eight_bit import EightBit

    if not all(isinstance(layer, EightBit) for layer in (block.conv1, block.conv2)):
        return "a residual block without 8-bit convolutions"
    if not hasattr(home, "group_norm_codes"):
        return "a residual block, whose convolutions take no codes on this device"
    expected = (
        block.time_embedding_norm == "default"
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is None
        and block.downsample is None
        and block.output_scale_factor == 1
        and block.time_emb_proj is not None
        and not block.skip_time_act
        and all(norm.weight is not None for norm in (block.norm1, block.norm2))
    )
    return "" if expected else "a residual block of another kind than SDXL's"
