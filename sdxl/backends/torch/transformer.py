"""Spatial transformers that stay channels-last: pixels are tokens, nothing is turned.

diffusers' own moves an image from NHWC to NCHW for its norm and back for its projection, twice.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sdxl.backends.torch.parts import Part, plus, takes_codes


class Transformer(nn.Module):
    """diffusers' transformer over an image, with linear projections, its norm written as codes."""

    transformer_blocks: Any

    def __init__(self, plain: Any, home: Any) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.norm_codes = Part("norm", home.group_norm_codes)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any,
        **__: Any,
    ) -> tuple[Tensor]:  # fmt: skip
        """Image (N, C, h, w) -> the same, channels-last; the rest is what SDXL's UNet never has."""
        pixels = hidden_states.permute(0, 2, 3, 1)
        count, height, width, channels = pixels.shape
        flat = pixels.reshape(-1, channels)
        first: Any = self.proj_in
        if takes_codes(first):
            coded = self.norm_codes(pixels, self.norm, first, None, None, False)
            tokens = first(coded.view(-1, channels), coded=True)
        else:
            normed: Any = self.norm(hidden_states)  # type: ignore[operator]
            tokens = first(normed.permute(0, 2, 3, 1).reshape(-1, channels))
        tokens = tokens.view(count, height * width, -1)
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        found = plus(self.proj_out, tokens.reshape(-1, tokens.shape[-1]), flat)
        return (found.view(pixels.shape).permute(0, 3, 1, 2),)


def replace(unet: Any, choice: Any) -> None:
    """Put `Transformer` where diffusers' has 8-bit projections; `choice` counts."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    for name, module in list(unet.named_modules()):
        if not isinstance(module, Transformer2DModel):
            continue
        if reason := _why_not(module, choice.home):
            choice.unfused[reason] += 1
            continue
        choice.fused["transformers"] += 1
        unet.set_submodule(name, Transformer(module, choice.home))


def _why_not(module: Any, home: Any) -> str:
    """Why a transformer stays as it is; empty if it need not."""
    from sdxl.backends.torch.block import Block
    from sdxl.backends.torch.eight_bit import EightBit

    if not all(isinstance(layer, EightBit) for layer in (module.proj_in, module.proj_out)):
        return "a transformer whose projections are not in 8 bits"
    if not hasattr(home, "group_norm_codes"):
        return "a transformer, whose norm writes no codes on this device"
    expected = (
        module.is_input_continuous
        and module.use_linear_projection
        and isinstance(module.norm, nn.GroupNorm)
        and module.norm.affine
        and all(isinstance(block, Block) for block in module.transformer_blocks)
    )
    return "" if expected else "a transformer of another kind than SDXL's"
