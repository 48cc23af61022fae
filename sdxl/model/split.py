"""SDXL's UNet in parts: all of it, or what lies above a kept feature; cross-attention kept.

Skip connections are numbered from the top: 0 follows `conv_in`, each residual block or downsampler
on the way down makes the next, and each residual block on the way up takes one. Above branch b lie
the layers that make the skips 0 to b and those that take them; its feature is what the block that
takes skip b gets from below.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch

from sdxl.config.shortcuts import Cross
from sdxl.core.errors import UserError
from sdxl.core.types import Embeddings

Tensor = torch.Tensor
_BLOCKS = (
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "Up",
)
"""diffusers' classes that SDXL is made of, and the torch backend's own way up."""


def forward(
    unet: Any,
    branch: int | None,
    feature: Tensor | None,
    sample: Tensor,
    timestep: Tensor,
    given: Embeddings,
) -> tuple[Tensor, Tensor]:
    """Predicted noise (N, 4, h, w), and the feature of `branch` (the last one where it is None).

    feature: of an earlier call, for the layers above it alone; None computes all of the UNet.
    """
    embedded, hidden = _embedded(unet, sample, timestep, given), given.hidden
    top = branch if feature is not None and branch is not None else None
    image = unet.conv_in(sample)
    skips = [image]
    for layers in _down(unet):
        if len(skips) - 1 == top:
            break
        for layer in layers:
            image = _through(layer, image, embedded, hidden)
        skips.append(image)
    if top is None:
        image = unet.mid_block(image, embedded, encoder_hidden_states=hidden)
    kept = image if feature is None else feature
    for number, block, place in _up(unet):
        if top is not None and number > top:
            continue
        if number == branch:
            image = kept = image if feature is None else feature
        image = _rise(block, place, image, skips[number], embedded, hidden)
        if place == len(block.resnets) - 1:
            for upsampler in block.upsamplers or ():
                image = upsampler(image, _size(unet, sample, skips[number - 1]))
    if unet.conv_norm_out:
        image = unet.conv_act(unet.conv_norm_out(image))
    return unet.conv_out(image), kept


def _embedded(unet: Any, sample: Tensor, timestep: Tensor, given: Embeddings) -> Tensor:
    """Embedding (N, T) of the timestep, the pooled text and the sizes."""
    words = {"text_embeds": given.pooled, "time_ids": given.time_ids}
    when = unet.get_time_embed(sample=sample, timestep=timestep)
    found: Tensor = unet.time_embedding(when, given.guidance)
    found = found + unet.get_aug_embed(
        emb=found, encoder_hidden_states=given.hidden, added_cond_kwargs=words
    )
    return unet.time_embed_act(found) if unet.time_embed_act is not None else found


def _down(unet: Any) -> Iterator[list[Any]]:
    """The layers that make each skip after the first."""
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            yield [resnet] if attention is None else [resnet, attention]
        for downsampler in block.downsamplers or ():
            yield [downsampler]


def _up(unet: Any) -> Iterator[tuple[int, Any, int]]:
    """(skip, block, place of the residual block that takes it), from the bottom."""
    number = sum(len(block.resnets) for block in unet.up_blocks)
    for block in unet.up_blocks:
        for place in range(len(block.resnets)):
            number -= 1
            yield number, block, place


def _through(layer: Any, image: Tensor, embedded: Tensor, hidden: Tensor) -> Tensor:
    if hasattr(layer, "transformer_blocks"):
        found: Tensor = layer(image, encoder_hidden_states=hidden, return_dict=False)[0]
        return found
    if hasattr(layer, "time_emb_proj"):
        return layer(image, embedded)
    return layer(image)


def _rise(
    block: Any, place: int, image: Tensor, skip: Tensor, embedded: Tensor, hidden: Tensor
) -> Tensor:
    """One residual block on the way up, and its attention."""
    resnet, attentions = block.resnets[place], getattr(block, "attentions", None)
    if getattr(block, "joins", False):  # it takes the skip beside the image
        image = resnet(image, embedded, skip)
    else:
        image = resnet(torch.cat([image, skip], dim=1), embedded)
    return _through(attentions[place], image, embedded, hidden) if attentions else image


def _size(unet: Any, sample: Tensor, skip: Tensor) -> Any:
    """What an upsampler has to give where halves were odd; None: twice its input."""
    even = all(side % 2**unet.num_upsamplers == 0 for side in sample.shape[-2:])
    return None if even else skip.shape[2:]


def check(unet: Any, branch: int | None) -> None:
    """Raise `UserError` for a UNet of other blocks than SDXL's, or without such a branch."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    other = {type(block).__name__ for block in blocks} - {*_BLOCKS}
    embeds = unet.config.addition_embed_type == "text_time" and unet.encoder_hid_proj is None
    if other or not embeds:
        raise UserError(
            "this UNet cannot be called in parts",
            ", ".join(sorted(other)) or "other embeddings",
            "the blocks of SDXL",
            "shortcut=none, or shortcut=guidance_cutoff",
        )
    last = sum(len(block.resnets) for block in unet.up_blocks) - 1
    if branch is not None and branch > last:
        raise UserError(
            "`shortcut.branch` does not exist in this UNet",
            str(branch),
            f"0 to {last}",
            f"shortcut.branch={last}",
        )


class Gate:
    """What one cross-attention keeps: told by the call what to do, read by the layer."""

    def __init__(self) -> None:
        self.does = Cross.computed
        self.value: Tensor | None = None

    @property
    def replays(self) -> bool:
        """The layer's output is `value`."""
        return self.does is Cross.replayed

    @property
    def records(self) -> bool:
        """The layer's output goes to `value`."""
        return self.does is Cross.recorded

    def take(self) -> Tensor:
        """What the layer made, which is not held any longer."""
        found, self.value = self.value, None
        assert found is not None, "the layer ran"
        return found


def gate(unet: Any) -> list[Gate]:
    """Give each cross-attention a gate; the modules keep their names, `forward` is another one."""
    found = []
    for name, module in unet.named_modules():
        if name.rpartition(".")[2] == "attn2":
            module.gate = Gate()
            module.forward = types.MethodType(_gated, module)
            found.append(module.gate)
    return found


def gates_above(unet: Any, branch: int) -> list[Gate]:
    """The gates that a call comes to which begins with the feature of `branch`."""
    layers = [each for found in list(_down(unet))[:branch] for each in found]
    for number, block, place in _up(unet):
        if number <= branch and (attentions := getattr(block, "attentions", None)):
            layers.append(attentions[place])
    inner = (module for layer in layers for module in layer.modules())
    return [module.gate for module in inner if hasattr(module, "gate")]


def _gated(self: Any, hidden: Tensor, *given: Any, **words: Any) -> Tensor:
    if self.gate.replays:
        kept: Tensor = self.gate.value
        return kept
    found: Tensor = self.processor(self, hidden, *given, **words)  # as diffusers' own
    if self.gate.records:
        self.gate.value = found
    return found
