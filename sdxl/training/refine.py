"""The stage `refine`: the UNet alone again, from what `joint` has left.

The text encoders are done by now: what their gradient still says is less than its noise, and
without their way back a step is shorter.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sdxl.training import joint, scene_data


class Stage(joint.Stage):
    """As `joint`, with text encoders that stay as they are."""

    def network(self) -> nn.Module:
        """What `joint` has exported."""
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        before = scene_data.exported(self.run, "joint")
        unet: Any = UNet2DConditionModel.from_pretrained(before / "unet")
        first = CLIPTextModel.from_pretrained(before / "text_encoder")
        second = CLIPTextModelWithProjection.from_pretrained(before / "text_encoder_2")
        for part in (first, second):
            part.requires_grad_(False)
        return joint.Painter(unet, first, second).train()
