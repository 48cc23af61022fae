"""The stage `unet_large`: the UNet goes on with larger pictures, from the stage `unet`'s weights.

With 8 x 8 latents, attention sees 4 x 4 and 2 x 2 places, too few to keep two solids apart; four
times the pixels give it four times the places. Small pictures first are the cheaper start.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sdxl.training import scene_data, unet


class Stage(unet.Stage):
    """As `unet`, beginning with what that stage has exported."""

    def network(self) -> nn.Module:
        """The UNet of small pictures."""
        from diffusers import UNet2DConditionModel

        before = scene_data.exported(self.run, "unet")
        network: Any = UNet2DConditionModel.from_pretrained(before)
        return unet.Denoiser(network).train()
